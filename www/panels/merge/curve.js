/** One curve of t over the layers: an SVG whose anchors are moved by pointer or keyboard. */

import { button, element, svg } from "../dom.js";
import { valueAt } from "./blend.js";

/**
 * @typedef {object} CurveState
 * @property {number[]} anchors of t, spread evenly over the layers
 * @property {boolean} follows whether these are the rest's
 * @property {number | null} layers where known
 * @property {string} base the model at t = 0
 * @property {string} other the model at t = 1
 */

const HEIGHT = 136;
const MARGIN = Object.freeze({ left: 40, right: 18, top: 14, bottom: 28 });
/** More anchors than this cannot be told apart. */
const MOST_ANCHORS = 33;
const KEYS = "Up and down move this anchor, with Shift finely; left and right go to its neighbours; Insert adds one, Delete removes it.";

/** Steps of t by key. @type {Readonly<Record<string, number>>} */
const STEPS = Object.freeze({ ArrowUp: 0.05, ArrowDown: -0.05, PageUp: 0.2, PageDown: -0.2, Home: -1, End: 1 });

export class CurveEditor {
  #label;
  #scope;
  #onChange;
  #graph = svg("g");
  #svg = /** @type {SVGSVGElement} */ (svg("svg", { height: HEIGHT, class: "curve-svg" }, [this.#graph]));
  /** @type {SVGElement[]} */
  #handles = [];
  #note = element("span", { className: "curve-note" });
  #add;
  #remove;
  #follow;
  #width = 320;
  /** The anchor that the buttons mean. */
  #current = 0;
  /** @type {CurveState} */
  #state = { anchors: [0.5], follows: false, layers: null, base: "", other: "" };
  element;

  /**
   * @param {{ key: string, label: string, scope: string, filter: string | null }} curve
   * @param {(anchors: number[] | null) => void} onChange null: as the rest
   */
  constructor({ key, label, scope, filter }, onChange) {
    this.#label = label;
    this.#scope = scope;
    this.#onChange = onChange;
    this.#add = button("Add", () => this.#insert(this.#current), "quiet");
    this.#remove = button("Remove", () => this.#delete(this.#current), "quiet");
    this.#follow = button("As the rest", () => this.#onChange(null), "quiet");
    this.#follow.hidden = filter === null;
    const title = element("h4", { textContent: label });
    for (const each of [this.#add, this.#remove, this.#follow]) each.ariaLabel = `${each.textContent}${each === this.#follow ? "" : " anchor"}: ${label}`;
    const keys = element("p", { id: `curve-keys-${key}`, className: "visually-hidden", textContent: KEYS });
    this.#svg.setAttribute("role", "group");
    this.#svg.setAttribute("aria-label", `t of ${label} over the layers`);
    this.#svg.setAttribute("aria-describedby", keys.id);
    this.element = element("div", { className: `curve curve-${key}` }, [
      element("div", { className: "curve-head" }, [title, this.#note, this.#add, this.#remove, this.#follow]),
      /** @type {Node} */ (this.#svg), keys,
    ]);
    new ResizeObserver(() => this.#resize()).observe(this.element);
  }

  /** @param {CurveState} state */
  show(state) {
    this.#state = state;
    this.#current = Math.min(this.#current, state.anchors.length - 1);
    this.#draw();
  }

  #resize() {
    const width = this.element.clientWidth;
    if (width === 0 || width === this.#width) return;
    this.#width = width;
    this.#draw();
  }

  /** @param {number} position in [0, 1] */
  #x(position) {
    return MARGIN.left + position * (this.#width - MARGIN.left - MARGIN.right);
  }

  /** @param {number} t */
  #y(t) {
    return HEIGHT - MARGIN.bottom - t * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  /** @param {number} index */
  #position(index) {
    const { length } = this.#state.anchors;
    return length === 1 ? 0.5 : index / (length - 1);
  }

  #draw() {
    const { anchors, follows, layers } = this.#state;
    this.#svg.setAttribute("width", String(this.#width));
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.element.classList.toggle("follows", follows);
    const values = follows ? "as the rest" : anchors.length === 1 ? `t ${anchors[0]}` : `${anchors.length} anchors`;
    this.#note.textContent = this.#scope === "" ? values : `${this.#scope}: ${values}`;
    this.#follow.disabled = follows;
    this.#add.disabled = anchors.length >= MOST_ANCHORS;
    this.#remove.disabled = anchors.length === 1;
    this.#graph.replaceChildren(...this.#axes(), ...this.#line(anchors, layers));
    this.#handle(anchors);
  }

  #axes() {
    const right = this.#width - MARGIN.right;
    const grid = [0, 0.5, 1].flatMap((t) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: this.#y(t), y2: this.#y(t) }),
      svg("text", { class: "tick", x: MARGIN.left - 14, y: this.#y(t) + 4, "text-anchor": "end" }, [String(t)]),
    ]);
    const { layers } = this.#state;
    const below = HEIGHT - 7;
    const ends = [
      svg("text", { class: "tick", x: MARGIN.left, y: below }, [layers === null ? "first layer" : "layer 0"]),
      svg("text", { class: "tick", x: right, y: below, "text-anchor": "end" }, [layers === null ? "last layer" : String(layers - 1)]),
    ];
    return [...grid, ...ends];
  }

  /**
   * @param {number[]} anchors
   * @param {number | null} layers
   */
  #line(anchors, layers) {
    const at = (/** @type {number} */ position) => [this.#x(position), this.#y(valueAt(anchors, position))];
    const corners = anchors.length === 1 ? [at(0), at(1)] : anchors.map((_, i) => at(this.#position(i)));
    const dots = Array.from({ length: layers ?? 0 }, (_, i) => {
      const [cx = 0, cy = 0] = at(layers === 1 ? 1 : i / ((layers ?? 2) - 1));
      return svg("circle", { class: "layer", cx, cy, r: 2.2 });
    });
    return [svg("polyline", { class: "line", points: corners.map((corner) => corner.join(",")).join(" ") }), ...dots];
  }

  /**
   * The anchors: elements stay while their number does, so that a drag and the focus go on.
   *
   * @param {number[]} anchors
   */
  #handle(anchors) {
    if (this.#handles.length !== anchors.length) {
      for (const old of this.#handles) old.remove();
      this.#handles = anchors.map((_, index) => this.#newHandle(index));
      this.#svg.append(...this.#handles);
    }
    for (const [index, handle] of this.#handles.entries()) {
      const t = anchors[index] ?? 0;
      handle.setAttribute("transform", `translate(${this.#x(this.#position(index))} ${this.#y(t)})`);
      handle.setAttribute("aria-label", this.#handleLabel(index));
      handle.setAttribute("aria-valuenow", String(t));
      handle.setAttribute("aria-valuetext", this.#valueText(t));
    }
  }

  /** @param {number} index */
  #handleLabel(index) {
    const { anchors, layers } = this.#state;
    if (anchors.length === 1) return `${this.#label}, all layers`;
    const layer = layers === null ? "" : `, at layer ${Number((this.#position(index) * (layers - 1)).toFixed(1))}`;
    return `${this.#label}, anchor ${index + 1} of ${anchors.length}${layer}`;
  }

  /** @param {number} t */
  #valueText(t) {
    const { base, other } = this.#state;
    if (t === 0) return `0, all ${base}`;
    return t === 1 ? `1, all ${other}` : `${t}`;
  }

  /** @param {number} index */
  #newHandle(index) {
    const handle = svg("g", {
      class: "anchor", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 1,
    }, [svg("circle", { class: "reach", r: 20 }), svg("circle", { class: "knob", r: 7 })]);
    handle.addEventListener("focus", () => { this.#current = index; });
    handle.addEventListener("keydown", (event) => this.#key(event, index));
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const y = event.clientY - this.#svg.getBoundingClientRect().top;
      this.#set(index, (this.#y(0) - y) / (this.#y(0) - this.#y(1)), 0.01);
    });
    return handle;
  }

  /**
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  #key(event, index) {
    const { key, shiftKey } = event;
    const step = STEPS[key];
    const t = this.#state.anchors[index] ?? 0;
    if (step !== undefined) this.#set(index, t + (shiftKey && key.startsWith("Arrow") ? step / 5 : step), 0.001);
    else if (key === "ArrowLeft" || key === "ArrowRight") this.#handles[index + (key === "ArrowLeft" ? -1 : 1)]?.focus();
    else if (key === "Insert" || key === "+") this.#insert(index);
    else if (key === "Delete" || key === "Backspace" || key === "-") this.#delete(index);
    else return;
    event.preventDefault();
  }

  /**
   * @param {number} index
   * @param {number} t
   * @param {number} grain what it is rounded to
   */
  #set(index, t, grain) {
    const rounded = Number((Math.round(Math.min(1, Math.max(0, t)) / grain) * grain).toFixed(3));
    if (this.#state.anchors[index] === rounded) return;
    this.#onChange(this.#state.anchors.with(index, rounded));
  }

  /** A new anchor after the given one, half-way to the next. @param {number} index */
  #insert(index) {
    const { anchors } = this.#state;
    if (anchors.length >= MOST_ANCHORS) return;
    const after = Math.min(index, Math.max(0, anchors.length - 2));
    const [here = 0, next = here] = anchors.slice(after, after + 2);
    this.#onChange(anchors.toSpliced(after + 1, 0, Number(((here + next) / 2).toFixed(3))));
    this.#handles[after + 1]?.focus();
  }

  /** @param {number} index */
  #delete(index) {
    const { anchors } = this.#state;
    if (anchors.length === 1) return;
    this.#onChange(anchors.toSpliced(index, 1));
    this.#handles[Math.min(index, anchors.length - 2)]?.focus();
  }
}
