/** Saving what the chat runs, as an FP8 checkpoint. */

import { button, byId, element } from "./dom.js";
import { Rate, shortName, waitingLine, weightsLine } from "./format.js";
import { places, writeInto } from "./merge/output.js";

/** @typedef {import("../pkg/index.js").Engine} Engine */
/** @typedef {import("./models.js").Model} Model */
/** @typedef {import("./merge/output.js").Place} Place */

/**
 * @typedef {object} Surroundings
 * @property {(model: Model) => { token?: string }} access what the model has to be fetched with once more
 * @property {(error: unknown, retry: () => void) => void} onFailed
 * @property {() => void} showStored shows what this browser keeps
 */

/** What the chat runs. @typedef {{ engine: Engine, name: string, model: Model }} Loaded */

export class SavePanel {
  #around;
  #section = byId("save", HTMLElement);
  #title = byId("save-title", HTMLElement);
  #place = byId("save-to", HTMLSelectElement);
  #start = byId("save-start", HTMLButtonElement);
  #stop = byId("save-stop", HTMLButtonElement);
  #box = byId("save-box", HTMLElement);
  #progress = byId("save-progress", HTMLProgressElement);
  #line = byId("save-line", HTMLElement);
  #done = byId("save-done", HTMLElement);
  /** @type {Loaded | null} */
  #loaded = null;
  /** @type {AbortController | null} */
  #running = null;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    const offered = places();
    for (const option of [...this.#place.options]) if (!offered.some((place) => place === option.value)) option.remove();
    this.#start.addEventListener("click", () => {
      if (this.#loaded) void this.#save(this.#loaded);
    });
    this.#stop.addEventListener("click", () => {
      this.#running?.abort();
      this.#line.textContent = "Stopping";
    });
  }

  /**
   * The chat runs another model, or none. A save that is under way goes on: it needs nothing of the engine.
   *
   * @param {Loaded | null} loaded
   */
  attach(loaded) {
    this.#loaded = loaded;
    if (this.#running === null) {
      this.#done.replaceChildren();
      this.#refresh();
    }
  }

  #refresh() {
    const isRunning = this.#running !== null;
    this.#section.hidden = this.#loaded === null && !isRunning;
    if (!isRunning) this.#title.textContent = `Save ${shortName(this.#loaded?.name ?? "")}`;
    this.#box.hidden = !isRunning;
    this.#stop.hidden = !isRunning;
    this.#start.hidden = isRunning;
    this.#place.disabled = isRunning;
  }

  /** @param {Loaded} loaded */
  async #save({ engine, name, model }) {
    if (this.#running) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#done.replaceChildren();
    const place = /** @type {Place} */ (this.#place.value);
    const title = shortName(name);
    const to = { place, name: /fp8$/i.test(title) ? title : `${title}-FP8`, instead: "Save it into a folder instead, or delete what is kept here." };
    const rate = new Rate(10_000);
    let hasBegun = false;
    try {
      const result = await writeInto(to, controller, (options) => engine.save({ ...options, ...this.#around.access(model) }), {
        onBegin: () => {
          hasBegun = true;
          this.#progress.removeAttribute("value");
          this.#line.textContent = "Reading the model’s description";
          this.#refresh();
          this.#box.scrollIntoView({ block: "nearest" });
        },
        onProgress: ({ done, total, waiting }) => {
          if (total > 0) this.#progress.value = done / total;
          const line = weightsLine(done, total, waiting ? 0 : rate.add(done, performance.now()));
          this.#line.textContent = waiting ? waitingLine(line, waiting) : line;
        },
      });
      if (result) this.#finish(place, result.label, result.written.warnings);
      else if (hasBegun) this.#done.replaceChildren(element("p", { className: "hint", textContent: "Stopped: nothing of it was kept." }));
    } catch (thrown) {
      this.#around.onFailed(thrown, () => void this.#save({ engine, name, model }));
    } finally {
      this.#running = null;
      this.#refresh();
    }
  }

  /**
   * @param {Place} place
   * @param {string} label
   * @param {string[]} warnings
   */
  #finish(place, label, warnings) {
    this.#done.replaceChildren(
      element("p", { className: "hint", textContent: `Saved as ${label}.` }),
      ...warnings.map((warning) => element("p", { className: "hint", textContent: `Note: ${warning}.` })),
      ...(place === "storage" ? [button("Show its files", () => this.#around.showStored(), "quiet")] : []),
    );
    this.#done.scrollIntoView({ block: "nearest" });
  }
}
