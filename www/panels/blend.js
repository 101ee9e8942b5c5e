/** The slider between the page's own two models: each move merges again, and the conversation goes on. */

import { BiseError } from "../pkg/index.js";
import { byId } from "./dom.js";
import { EMBEDDED, EMBEDDED_LAYERS, evenRecipe } from "./merge/presets.js";

/** @typedef {import("../pkg/index.js").Engine} Engine */

/** A pause in moving after which it merges, milliseconds. */
const PAUSE_MS = 80;

/**
 * Both of the page's own models, blended.
 *
 * @param {number} t
 */
export function evenBlend(t) {
  return { recipe: evenRecipe(t), models: EMBEDDED };
}

/**
 * @typedef {object} Surroundings
 * @property {import("./chat.js").ChatPanel} chat
 * @property {import("./message.js").MessagePanel} message
 */

export class BlendPanel {
  #around;
  #box = byId("blend", HTMLElement);
  #slider = byId("blend-t", HTMLInputElement);
  #value = byId("blend-value", HTMLOutputElement);
  #recipe = byId("blend-recipe", HTMLButtonElement);
  /** @type {Engine | null} */
  #engine = null;
  /** What was loaded, where it was no even blend. @type {string | null} */
  #original = null;
  /** Ends the merge that runs. @type {AbortController | null} */
  #running = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    this.#slider.addEventListener("input", () => {
      this.#show(this.#slider.value);
      this.#plan(evenRecipe(this.#slider.valueAsNumber));
    });
    this.#recipe.addEventListener("click", () => {
      if (this.#original === null) return;
      this.#show(null);
      this.#plan(this.#original);
    });
  }

  /**
   * Shows the slider if this is a merge of the page's own models.
   *
   * @param {Engine | null} engine
   * @param {unknown} model what was loaded
   */
  attach(engine, model) {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
    // The slider's merges have the shape of the models themselves, and can only replace weights of that shape.
    const recipe = engine?.info.layers === EMBEDDED_LAYERS ? ownBlend(model) : null;
    this.#engine = recipe === null ? null : engine;
    this.#box.hidden = this.#engine === null;
    if (recipe === null) return;
    const isEven = recipe === evenRecipe(0.5);
    this.#original = isEven ? null : recipe;
    this.#slider.value = "0.5";
    this.#show(isEven ? "0.5" : null);
  }

  /** @param {string | null} t null: as the recipe has it */
  #show(t) {
    this.#recipe.hidden = this.#original === null || t === null;
    this.#box.classList.toggle("by-recipe", t === null);
    this.#value.textContent = t === null ? "t by the recipe" : `t ${Number(t).toFixed(2)}`;
    this.#slider.setAttribute("aria-valuetext", t === null ? "as the recipe has it" : `t ${t}: ${Math.round(Number(t) * 100)} % case`);
  }

  /** @param {string} recipe */
  #plan(recipe) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#merge(recipe), PAUSE_MS);
  }

  /**
   * Merges into the loaded engine. The latest recipe wins: one that runs is ended.
   *
   * @param {string} recipe
   */
  async #merge(recipe) {
    const engine = this.#engine;
    if (engine === null) return;
    this.#running?.abort();
    const controller = new AbortController();
    this.#running = controller;
    const isLatest = () => this.#running === controller;
    await this.#around.chat.interrupt();
    if (!isLatest()) return;
    try {
      await engine.replaceWeights({ recipe, models: EMBEDDED }, { signal: controller.signal });
    } catch (thrown) {
      if (!isLatest() || (thrown instanceof BiseError && thrown.code === "aborted")) return;
      this.#running = null;
      this.#around.message.error(thrown, [{ label: "Try again", run: () => void this.#merge(recipe) }]);
      return;
    }
    if (!isLatest()) return;
    this.#running = null;
    this.#around.chat.again();
  }
}

/**
 * The recipe, if this is a merge of the page's own models.
 *
 * @param {unknown} model
 * @returns {string | null}
 */
function ownBlend(model) {
  if (typeof model !== "object" || model === null || !("recipe" in model) || !("models" in model)) return null;
  const { recipe, models } = model;
  const isOwn = models === EMBEDDED && typeof recipe === "string";
  return isOwn ? recipe : null;
}
