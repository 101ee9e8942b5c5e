/** The sampling form: fields -> request options. */

import { byId, element } from "./dom.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {number} min
 * @property {number} [max]
 * @property {number | "any"} step
 * @property {string} hint
 */

/** @type {readonly Field[]} */
const FIELDS = Object.freeze([
  { name: "temperature", label: "Temperature", min: 0, max: 5, step: 0.05, hint: "0 always takes the likeliest token; higher is more surprising" },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, hint: "keep the likeliest tokens with this much probability together" },
  { name: "top_k", label: "Top k", min: 0, step: 1, hint: "keep this many of the likeliest tokens; 0 keeps all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "drop tokens below this share of the likeliest one's probability" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.01, max: 5, step: 0.01, hint: "above 1 discourages tokens that occurred already" },
  { name: "max_tokens", label: "Most tokens", min: 1, step: 1, hint: "length of a reply at most" },
  { name: "seed", label: "Seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, hint: "the same seed gives the same reply" },
]);

export class SamplingPanel {
  #form = byId("sampling-form", HTMLFormElement);
  #stop = byId("stop-strings", HTMLTextAreaElement);
  #summary = byId("sampling-summary", HTMLElement);
  #panel = byId("sampling-panel", HTMLDetailsElement);
  /** @type {Map<string, HTMLInputElement>} */
  #inputs = new Map();

  constructor() {
    const fields = this.#form.querySelector(".fields");
    for (const { name, label, min, max, step, hint } of FIELDS) {
      const input = element("input", { type: "number", id: `sampling-${name}`, min: String(min), step: String(step), title: hint, placeholder: "auto", inputMode: "decimal" });
      if (max !== undefined) input.max = String(max);
      this.#inputs.set(name, input);
      fields?.append(element("div", {}, [element("label", { htmlFor: input.id, textContent: label, title: hint }), input]));
    }
    this.#panel.addEventListener("toggle", () => {
      if (this.#panel.open) this.#panel.scrollIntoView({ block: "nearest" });
    });
    this.#form.addEventListener("input", () => this.#summarise());
    this.#form.addEventListener("reset", () => queueMicrotask(() => this.#summarise()));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
  }

  /**
   * Options of a request, or null where a field holds what cannot be: that field is then shown.
   *
   * @returns {Record<string, number | string[]> | null}
   */
  read() {
    if (!this.#form.checkValidity()) {
      this.#panel.open = true;
      this.#form.reportValidity();
      return null;
    }
    /** @type {Record<string, number | string[]>} */
    const options = {};
    for (const [name, input] of this.#inputs) {
      if (input.value !== "") options[name] = input.valueAsNumber;
    }
    const stop = this.#stop.value.split("\n").filter((line) => line !== "");
    if (stop.length > 0) options.stop = stop;
    return options;
  }

  #summarise() {
    const set = [...this.#inputs.values(), this.#stop].filter(({ value }) => value !== "").length;
    this.#summary.textContent = set === 0 ? "model’s own" : `${set} changed`;
  }
}
