/** A bench's figures as bars, with a table of the same under each chart. */

import { element, svg } from "../dom.js";

/** @typedef {import("../../pkg/index.js").Figure} Figure */

/**
 * A bar: `share` of the chart's width, `amount` in words.
 * @typedef {{ label: string, share: number, amount: string }} Bar
 */

/** Kinds of what is achieved, in the order of interest. @type {readonly Figure["kind"][]} */
const ACHIEVED = Object.freeze(["decode", "prefill", "load", "merge"]);

/** Pixels from one bar to the next: a line of text, the bar, and room. */
const STEP = 40;
const BAR = 10;

/**
 * Bars one below the other. Widths are in per cent, so that they follow the page's.
 *
 * @param {string} label what the chart shows, for those who do not see it: its figures are in the table
 * @param {Bar[]} bars
 * @returns {HTMLElement}
 */
export function barChart(label, bars) {
  const rows = bars.flatMap(({ label: name, share, amount }, index) => {
    const top = index * STEP;
    const width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
    return [
      svg("text", { x: 0, y: top + 14 }, [name]),
      svg("text", { x: "100%", y: top + 14, "text-anchor": "end", class: "amount" }, [amount]),
      svg("rect", { class: "track", x: 0, y: top + 20, width: "100%", height: BAR, rx: BAR / 2 }),
      svg("rect", { class: "fill", x: 0, y: top + 20, width, height: BAR, rx: BAR / 2 }),
    ];
  });
  const drawing = svg("svg", { height: bars.length * STEP - 6, role: "img", "aria-label": label }, rows);
  return element("div", { className: "chart" }, [/** @type {Node} */ (drawing)]);
}

/**
 * A table that scrolls by itself where it is too wide; the first cell of each row is its head.
 *
 * @param {string} caption
 * @param {string[]} head
 * @param {string[][]} rows
 * @returns {HTMLElement}
 */
export function table(caption, head, rows) {
  const heads = head.map((text) => element("th", { scope: "col", textContent: text }));
  const body = rows.map((cells) => element("tr", {}, cells.map((text, index) => (
    index === 0 ? element("th", { scope: "row", textContent: text }) : element("td", { textContent: text })
  ))));
  const made = element("table", {}, [
    element("caption", { textContent: caption }),
    element("thead", {}, [element("tr", {}, heads)]),
    element("tbody", {}, body),
  ]);
  const scroller = element("div", { className: "figures", tabIndex: 0 }, [made]);
  scroller.setAttribute("role", "group");
  scroller.setAttribute("aria-label", caption);
  return scroller;
}

/**
 * Three significant digits, as far as they are behind the point.
 *
 * @param {number} value
 */
export function digits(value) {
  const places = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(places);
}

/** @param {Figure} figure */
export function amount({ value, unit }) {
  return `${digits(value)} ${unit}`;
}

/** What a figure is called. @param {Figure} figure */
export function title({ kind, name, at }) {
  const tokens = at > 0 ? ` ${at}` : "";
  switch (kind) {
    case "prefill":
      return `Prompt of${tokens} tokens`;
    case "decode":
      return `Token after${tokens}`;
    case "load":
      return "Loading weights";
    case "merge":
      return name === "reduce" ? "Merge: sums" : name === "blend" ? "Merge: blend" : `Merge: ${name}`;
    case "first token":
      return `First token, ${name}`;
    default:
      return name === "" ? kind : name.charAt(0).toUpperCase() + name.slice(1);
  }
}

/** @param {Figure} figure */
const spreadOf = ({ spread: [least, most], samples }) => (samples > 1 ? `${digits(least)} to ${digits(most)}` : "once");

/**
 * What was achieved, beside its limit.
 *
 * @param {Figure[]} figures
 * @returns {HTMLElement[]}
 */
export function achieved(figures) {
  const shown = ACHIEVED.flatMap((kind) => figures.filter((figure) => figure.kind === kind && figure.ratio !== null));
  const bars = shown.map((figure) => ({
    label: title(figure),
    share: figure.ratio ?? 0,
    amount: `${amount(figure)}, ${(figure.ratio ?? 0).toFixed(2)}`,
  }));
  const rows = shown.map((figure) => (
    [title(figure), amount(figure), spreadOf(figure), `${digits(figure.limit ?? 0)} ${figure.unit}`, (figure.ratio ?? 0).toFixed(2)]
  ));
  return [
    barChart("Each figure as a share of what the adapter can do at most", bars),
    table("Medians, beside the most that this adapter can do", ["figure", "median", "least to most", "limit", "ratio"], rows),
  ];
}

/**
 * What a token is made of, for each context: time by kernel, or where the adapter does not tell, dispatches.
 *
 * @param {Figure[]} figures
 * @returns {HTMLElement[]}
 */
export function byKernel(figures) {
  const contexts = [...new Set(figures.filter(({ kind }) => kind === "dispatches").map(({ at }) => at))];
  return contexts.flatMap((context) => {
    const of = (/** @type {Figure["kind"]} */ kind) => figures.filter((figure) => figure.kind === kind && figure.at === context);
    const counts = new Map(of("dispatches").map(({ name, value }) => [name, value]));
    const [perLayer = 0, all = 0] = ["per layer", "per token"].map((name) => counts.get(name));
    for (const name of ["per layer", "per token"]) counts.delete(name);
    const timed = of("time");
    const shown = (timed.length > 0 ? timed : of("dispatches").filter(({ name }) => counts.has(name)))
      .toSorted((a, b) => b.value - a.value);
    const most = Math.max(...shown.map(({ value }) => value), 1e-9);
    const bars = shown.map((figure) => ({ label: figure.name, share: figure.value / most, amount: amount(figure) }));
    const rows = shown.map((figure) => [figure.name, String(counts.get(figure.name) ?? 0), timed.length > 0 ? amount(figure) : "not told"]);
    const [summed, looped, beside] = of("token").map(amount);
    const whole = summed === undefined ? [] : [
      element("p", { className: "hint", textContent: `Together ${summed}; in the token loop a token takes ${looped}, ${beside} of it beside these.` }),
    ];
    return [
      element("h4", { textContent: `A token after ${context} others: ${all} dispatches, ${perLayer} per layer` }),
      barChart(`Kernels of a token after ${context} others`, bars),
      table(`Kernels of a token after ${context} others`, ["kernel", "dispatches", "time"], rows),
      ...whole,
    ];
  });
}

/**
 * Limits and every kernel that was tried, as tables.
 *
 * @param {Figure[]} figures
 * @returns {HTMLElement[]}
 */
export function limits(figures) {
  const of = (/** @type {Figure["kind"]} */ kind) => figures.filter((figure) => figure.kind === kind);
  const kernels = of("kernel").map((figure) => [figure.name, amount(figure), spreadOf(figure), (figure.ratio ?? 0).toFixed(2)]);
  return [
    table("The most that this adapter does", ["limit", "median", "least to most"], of("limit").map((figure) => [title(figure), amount(figure), spreadOf(figure)])),
    element("details", {}, [
      element("summary", { textContent: `All ${kernels.length} kernels that were tried` }),
      table("Products on the model’s shapes", ["kernel", "median", "least to most", "of the best"], kernels),
    ]),
  ];
}
