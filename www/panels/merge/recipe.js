/** The recipe's text: line numbers, and its errors at once, with their place. */

import { BiseError, recipeOutline } from "../../pkg/index.js";
import { byId, element } from "../dom.js";

/** @typedef {import("../../pkg/index.js").RecipeOutline} RecipeOutline */

/** A pause in typing after which the recipe is read, milliseconds. */
const PAUSE_MS = 120;
const MOST_ROWS = 40;

export class RecipeEditor {
  #text = byId("recipe-text", HTMLTextAreaElement);
  #gutter = byId("recipe-lines", HTMLElement);
  #error = byId("recipe-error", HTMLElement);
  #warnings = byId("recipe-warnings", HTMLElement);
  #onOutline;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #badLine = 0;

  /** @param {(outline: RecipeOutline | null) => void} onOutline null: the recipe has an error */
  constructor(onOutline) {
    this.#onOutline = onOutline;
    this.#text.addEventListener("input", () => {
      this.#draw();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.read(), PAUSE_MS);
    });
    this.#text.addEventListener("scroll", () => { this.#gutter.scrollTop = this.#text.scrollTop; });
  }

  get value() {
    return this.#text.value;
  }

  /**
   * Replaces the text, without reading it.
   *
   * @param {string} text
   */
  write(text) {
    clearTimeout(this.#timer);
    this.#text.value = text;
    this.#draw();
  }

  /** Reads the text as it stands; late answers are dropped. */
  async read() {
    clearTimeout(this.#timer);
    const text = this.value;
    let outline = null;
    let failure = null;
    try {
      outline = await recipeOutline(text);
    } catch (thrown) {
      failure = thrown;
    }
    if (text !== this.value) return;
    this.fail(failure);
    this.#warnings.hidden = !outline?.warnings.length;
    this.#warnings.replaceChildren(...(outline?.warnings ?? []).map((textContent) => element("li", { textContent })));
    this.#onOutline(outline);
  }

  /**
   * Shows an error of the recipe, or null that there is none.
   *
   * @param {unknown} thrown
   */
  fail(thrown) {
    const message = thrown === null ? "" : thrown instanceof Error ? thrown.message : String(thrown);
    this.#badLine = Number(/^(?:document \d+[^:]*?, )?line (\d+)/.exec(message)?.[1] ?? 0);
    this.#text.setAttribute("aria-invalid", String(thrown !== null));
    this.#error.hidden = thrown === null;
    this.#error.textContent = message;
    if (thrown !== null && !(thrown instanceof BiseError)) console.error(thrown);
    this.#draw();
  }

  #draw() {
    const lines = this.value.split("\n").length;
    this.#text.rows = Math.min(MOST_ROWS, lines);
    this.#gutter.replaceChildren(...Array.from({ length: lines }, (_, i) => element("span", {
      textContent: String(i + 1), className: i + 1 === this.#badLine ? "bad" : "",
    })));
    this.#gutter.scrollTop = this.#text.scrollTop;
  }
}
