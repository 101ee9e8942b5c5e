/** What a merge did to each tensor: charts over the layers, totals, a table. */

import { byId, element, svg } from "../dom.js";

/** @typedef {import("../../pkg/index.js").TensorReport} TensorReport */
/** @typedef {import("../../pkg/index.js").MergeReport} MergeReport */
/** @typedef {"attention" | "mlp" | "rest"} Kind */
/** @typedef {{ kind: Kind, place: number | "first" | "last", report: TensorReport }} Mark */

const MARGIN = Object.freeze({ left: 52, right: 14, top: 12, bottom: 22 });
const DOT_HEIGHT = 230;
const T_HEIGHT = 120;
/** Above this cosine mergekit's SLERP blends linearly. */
const LINEAR_ABOVE = 0.9995;
/** Where marks of one layer stand beside each other, in shares of its width. @type {Readonly<Record<string, number>>} */
const OFFSETS = Object.freeze({ attention: -0.26, mlp: 0.26, rest: 0 });

export class ReportPanel {
  #section = byId("report", HTMLElement);
  #title = byId("step-report", HTMLElement);
  #charts = byId("report-charts", HTMLElement);
  #totals = byId("report-totals", HTMLElement);
  #warnings = byId("report-warnings", HTMLElement);
  #table = byId("report-table", HTMLElement);
  #details = byId("report-details", HTMLDetailsElement);
  /** @type {TensorReport[]} */
  #tensors = [];
  #isPlanned = false;

  constructor() {
    new ResizeObserver(() => this.#plan()).observe(this.#charts);
    this.#details.addEventListener("toggle", () => this.#plan());
  }

  clear() {
    this.#tensors = [];
    this.#title.textContent = "Report";
    this.#section.hidden = true;
    this.#totals.textContent = "";
    this.#warnings.replaceChildren();
    this.#warnings.hidden = true;
    this.#charts.replaceChildren();
    this.#table.replaceChildren();
  }

  /** @param {TensorReport} tensor */
  add(tensor) {
    this.#tensors.push(tensor);
    this.#section.hidden = false;
    this.#plan();
  }

  /**
   * @param {MergeReport} report
   * @param {string} name of the merge
   * @param {string[]} parents base first
   */
  finish({ tensors, warnings, totals }, name, parents) {
    this.#title.textContent = `Report: ${name}`;
    this.#tensors = tensors;
    this.#section.hidden = false;
    this.#totals.textContent = totalsLine(totals, parents);
    this.#warnings.hidden = warnings.length === 0;
    this.#warnings.replaceChildren(...warnings.map((textContent) => element("li", { textContent })));
    this.#plan();
  }

  /** Draws once before the next frame, however many tensors arrive until then. */
  #plan() {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    requestAnimationFrame(() => {
      this.#isPlanned = false;
      this.#draw();
    });
  }

  #draw() {
    const width = this.#charts.clientWidth;
    if (width === 0 || this.#tensors.length === 0) return;
    // In a chain, every tensor of the result follows the ones that it is made of.
    const result = this.#tensors.at(-1)?.document;
    const marks = this.#tensors.filter(({ document }) => document === result).map(markOf);
    const measured = marks.filter(({ report }) => report.dot !== undefined);
    this.#charts.replaceChildren(...measured.length === 0
      ? [element("p", { className: "hint", textContent: "This method measures no angles; the table has every tensor's factors, norms and distances." })]
      : [legend(), /** @type {Node} */ (dotChart(measured, width)), /** @type {Node} */ (tChart(measured, width))]);
    if (this.#details.open) this.#table.replaceChildren(tableOf(this.#tensors));
  }
}

/**
 * @param {MergeReport["totals"]} totals
 * @param {string[]} parents base first
 */
function totalsLine({ tensors, parameters, spherical, linear, distances }, [base, other]) {
  const parts = [`${tensors} tensors, ${(parameters / 1e6).toFixed(parameters < 1e7 ? 2 : 0)} million weights`];
  if (spherical + linear > 0) parts.push(`${spherical} blended on the sphere, ${linear} linearly`);
  const [toBase, toOther] = distances.map((distance) => `${(distance * 100).toFixed(1)} %`);
  if (spherical + linear > 0 && base && other) parts.push(`the result lies ${toBase} from ${base} and ${toOther} from ${other}`);
  return `${parts.join("; ")}.`;
}

/**
 * @param {TensorReport} report
 * @returns {Mark}
 */
function markOf(report) {
  const layer = /\.layers\.(\d+)\./.exec(report.tensor)?.[1];
  const kind = report.tensor.includes("self_attn") ? "attention" : report.tensor.includes(".mlp.") ? "mlp" : "rest";
  const place = layer !== undefined ? Number(layer) : report.tensor.includes("embed") ? "first" : "last";
  return { kind, place, report };
}

/**
 * Where columns stand: the embedding, the layers, then norm and head.
 *
 * @param {Mark[]} marks
 * @param {number} width
 */
function columns(marks, width) {
  const layers = 1 + Math.max(0, ...marks.map(({ place }) => (typeof place === "number" ? place : 0)));
  const step = (width - MARGIN.left - MARGIN.right) / (layers + 2);
  const at = (/** @type {number} */ index) => MARGIN.left + (index + 0.5) * step;
  return { layers, step, at, of: (/** @type {Mark["place"]} */ place) => at(place === "first" ? 0 : place === "last" ? layers + 1 : place + 1) };
}

/**
 * @param {ReturnType<typeof columns>} columns
 * @param {number} bottom
 */
function layerTicks({ layers, step, at }, bottom) {
  const every = Math.ceil(28 / step);
  const numbers = Array.from({ length: layers }, (_, i) => i).filter((i) => i % every === 0);
  const tick = (/** @type {number} */ x, /** @type {string} */ text, anchor = "middle") => svg("text", { class: "tick", x, y: bottom + 16, "text-anchor": anchor }, [text]);
  const roomy = step > 52;
  return [
    tick(at(0), roomy ? "embedding" : "emb"),
    ...numbers.map((i) => tick(at(i + 1), String(i))),
    tick(at(layers + 1), roomy ? "norm, head" : "end"),
  ];
}

/**
 * A round number not below `least`, where cosines are too close together for more.
 *
 * @param {number} least
 */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-7)));
  const factor = [1, 2, 2.5, 5, 10].find((each) => each * power >= least) ?? 10;
  return Number((factor * power).toPrecision(2));
}

/**
 * @param {Mark[]} marks
 * @param {number} width
 */
function dotChart(marks, width) {
  const dots = marks.map(({ report }) => report.dot ?? 0);
  const step = niceStep((1 - Math.min(...dots)) / 4);
  const steps = Math.max(1, Math.ceil((1 - Math.min(...dots)) / step));
  const low = 1 - steps * step;
  const bottom = DOT_HEIGHT - MARGIN.bottom;
  const y = (/** @type {number} */ dot) => bottom - ((dot - low) / (1 - low)) * (bottom - MARGIN.top);
  const digits = Math.max(1, Math.ceil(-Math.log10(step) - 1e-9) + (String(step).includes("25") ? 1 : 0));
  const grid = Array.from({ length: steps + 1 }, (_, i) => 1 - i * step).flatMap((dot) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(dot), y2: y(dot) }),
    svg("text", { class: "tick", x: MARGIN.left - 8, y: y(dot) + 4, "text-anchor": "end" }, [dot.toFixed(digits)]),
  ]);
  const isBetween = low < LINEAR_ABOVE && y(LINEAR_ABOVE) - y(1) > 12;
  const threshold = isBetween ? [svg("line", { class: "threshold", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(LINEAR_ABOVE), y2: y(LINEAR_ABOVE) })] : [];
  const where = columns(marks, width);
  const shapes = marks.map(({ kind, place, report }) => shape(kind, report, where.of(place) + (OFFSETS[kind] ?? 0) * where.step, y(report.dot ?? 0)));
  const linear = marks.filter(({ report }) => report.branch === "linear").length;
  const label = `Cosine between the parents, per tensor: from ${Math.min(...dots).toFixed(4)} to ${Math.max(...dots).toFixed(4)}; ${linear} of ${marks.length} tensors blended linearly. The table below has all values.`;
  return figure("Cosine between the two parents (dot)", DOT_HEIGHT, width, label, [...grid, ...threshold, ...shapes, ...layerTicks(where, bottom)]);
}

/**
 * @param {Mark[]} marks
 * @param {number} width
 */
function tChart(marks, width) {
  const bottom = T_HEIGHT - MARGIN.bottom;
  const y = (/** @type {number} */ t) => bottom - t * (bottom - MARGIN.top);
  const where = columns(marks, width);
  const grid = [0, 0.5, 1].flatMap((t) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(t), y2: y(t) }),
    svg("text", { class: "tick", x: MARGIN.left - 8, y: y(t) + 4, "text-anchor": "end" }, [String(t)]),
  ]);
  const lines = /** @type {Kind[]} */ (["attention", "mlp", "rest"]).map((kind) => {
    const points = marks.filter((mark) => mark.kind === kind).map(({ place, report }) => [where.of(place), y(report.t ?? 0)]);
    points.sort(([a = 0], [b = 0]) => a - b);
    return svg("polyline", { class: `line ${kind}`, points: points.map((point) => point.join(",")).join(" ") });
  });
  return figure("t: 0 is the base, 1 the other", T_HEIGHT, width, "t per layer, for attention, MLP and the rest", [...grid, ...lines, ...layerTicks(where, bottom)]);
}

/**
 * @param {string} caption
 * @param {number} height
 * @param {number} width
 * @param {string} label
 * @param {SVGElement[]} children
 */
function figure(caption, height, width, label, children) {
  return element("figure", {}, [
    element("figcaption", { textContent: caption }),
    /** @type {Node} */ (svg("svg", { role: "img", "aria-label": label, width, height, viewBox: `0 0 ${width} ${height}` }, children)),
  ]);
}

/**
 * A mark: the kind by shape and colour, the branch by its filling.
 *
 * @param {Kind} kind
 * @param {TensorReport | null} report
 * @param {number} x
 * @param {number} y
 */
function shape(kind, report, x, y) {
  const classes = `mark ${kind} ${report?.branch ?? ""}`;
  const title = report === null ? [] : [svg("title", {}, [`${report.tensor}\ndot ${report.dot?.toFixed(6)}, ${report.branch}, t ${report.t?.toFixed(3)}`])];
  if (kind === "attention") return svg("circle", { class: classes, cx: x, cy: y, r: 4.5 }, title);
  if (kind === "mlp") return svg("rect", { class: classes, x: x - 4, y: y - 4, width: 8, height: 8 }, title);
  return svg("path", { class: classes, d: `M${x} ${y - 5.5}L${x + 5} ${y + 4}H${x - 5}Z` }, title);
}

function legend() {
  const sign = (/** @type {Kind} */ kind, /** @type {"" | "linear"} */ branch) => {
    const mark = shape(kind, null, 8, 8);
    if (branch) mark.classList.add(branch);
    return /** @type {Node} */ (svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, [mark]));
  };
  const item = (/** @type {Node} */ icon, /** @type {string} */ text) => element("li", {}, [icon, text]);
  return element("ul", { className: "legend" }, [
    item(sign("attention", ""), "attention"), item(sign("mlp", ""), "MLP"), item(sign("rest", ""), "the rest"),
    item(sign("attention", "linear"), "hollow: so close that it is blended linearly"),
  ]);
}

/** @param {TensorReport[]} tensors */
function tableOf(tensors) {
  const number = (/** @type {number | undefined} */ value, digits = 4) => (value === undefined ? "" : value.toFixed(digits));
  const list = (/** @type {number[]} */ values) => values.map((value) => number(value, 3)).join(", ");
  const rows = tensors.map((tensor) => [
    tensor.document === undefined ? tensor.tensor : `${tensor.document}: ${tensor.tensor}`,
    tensor.method, number(tensor.t, 3), number(tensor.dot, 6), tensor.branch ?? "",
    list(tensor.coefficients), list(tensor.norms), list(tensor.distances), tensor.path,
  ]);
  const head = ["Tensor", "Method", "t", "dot", "Branch", "Factors", "Norms", "Distances", "Merged on"];
  return element("table", {}, [
    element("thead", {}, [element("tr", {}, head.map((textContent) => element("th", { textContent, scope: "col" })))]),
    element("tbody", {}, rows.map(([name = "", ...cells]) => element("tr", {}, [
      element("th", { textContent: name, scope: "row" }), ...cells.map((textContent) => element("td", { textContent })),
    ]))),
  ]);
}
