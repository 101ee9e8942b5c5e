/** Choosing a model, and its load: bytes, rate, remaining time, then shaders. */

import { BiseError, Engine, HUB_URL } from "../pkg/index.js";
import { byId } from "./dom.js";
import { Rate, fromHubPage, weightsLine } from "./format.js";

/** @typedef {import("../pkg/index.js").Engine} LoadedEngine */
/** @typedef {Parameters<typeof Engine.load>[0]} Model */
/** @typedef {NonNullable<NonNullable<Parameters<typeof Engine.load>[1]>["onProgress"]>} OnProgress */

/**
 * @typedef {object} Events
 * @property {() => Promise<void>} onUnload the loaded model has to go before another comes
 * @property {(engine: LoadedEngine, name: string) => void} onLoaded
 * @property {(error: unknown, retry: () => void) => void} onFailed
 */

export class ModelsPanel {
  #events;
  #panel = byId("models-panel", HTMLDetailsElement);
  #nameLabel = byId("model-name", HTMLElement);
  #address = byId("model-address", HTMLInputElement);
  #weights = byId("weights", HTMLSelectElement);
  #loading = byId("loading", HTMLElement);
  #title = byId("loading-title", HTMLElement);
  #progress = byId("load-progress", HTMLProgressElement);
  #detail = byId("load-detail", HTMLElement);
  #announcer = byId("announcer", HTMLElement);
  #choices = /** @type {HTMLButtonElement[]} */ ([...document.querySelectorAll("#embedded button")]);
  /** @type {AbortController | null} */
  #controller = null;
  /** What was loaded last. @type {() => void} */
  #again = () => this.loadDefault();

  /** @param {Events} events */
  constructor(events) {
    this.#events = events;
    for (const choice of this.#choices) {
      choice.addEventListener("click", () => this.load(choice.dataset.model ?? "", choice.dataset.name ?? ""));
    }
    byId("models-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      const address = fromHubPage(this.#address.value.trim(), HUB_URL);
      if (address === "") this.#address.focus();
      else void this.load(address, address);
    });
    byId("cancel-load", HTMLButtonElement).addEventListener("click", () => this.#controller?.abort());
    this.#pickers();
  }

  /** Loads the first of the page's own models. */
  loadDefault() {
    this.#choices[0]?.click();
  }

  /** Loads once more what was loaded last. */
  reload() {
    this.#again();
  }

  /** Shows that no model is loaded. */
  unload() {
    this.#nameLabel.textContent = "none";
    for (const choice of this.#choices) choice.setAttribute("aria-pressed", "false");
  }

  openPanel() {
    this.#panel.open = true;
    this.#address.focus();
  }

  /**
   * @param {Model} model
   * @param {string} name
   */
  async load(model, name) {
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    this.#again = () => void this.load(model, name);
    for (const choice of this.#choices) choice.setAttribute("aria-pressed", String(choice.dataset.model === model));
    this.#begin(name);
    try {
      await this.#events.onUnload();
      const engine = await Engine.load(model, {
        weights: this.#weights.value === "checkpoint" ? "checkpoint" : "f8",
        onProgress: this.#reporter(),
        signal: controller.signal,
      });
      this.#nameLabel.textContent = name;
      this.#announcer.textContent = `${name} is ready.`;
      if (matchMedia("(max-width: 52rem)").matches) this.#panel.open = false;
      this.#events.onLoaded(engine, name);
    } catch (thrown) {
      const replaced = this.#controller !== controller;
      if (replaced) return;
      this.unload();
      const error = thrown instanceof BiseError && thrown.code === "aborted"
        ? new BiseError("aborted", `Loading ${name} was cancelled. Choose a model to go on.`)
        : thrown;
      this.#events.onFailed(error, this.#again);
    } finally {
      if (this.#controller === controller) {
        this.#controller = null;
        this.#loading.hidden = true;
      }
    }
  }

  /** @param {string} name */
  #begin(name) {
    this.#nameLabel.textContent = "loading";
    this.#title.textContent = `Loading ${name}`;
    this.#announcer.textContent = `Loading ${name}.`;
    this.#progress.removeAttribute("value");
    this.#detail.textContent = "Asking for the graphics device";
    this.#loading.hidden = false;
  }

  /** @returns {OnProgress} */
  #reporter() {
    const rate = new Rate(4000);
    return ({ phase, done, total }) => {
      if (total > 0) this.#progress.value = done / total;
      else this.#progress.removeAttribute("value");
      if (phase === "adapter") this.#detail.textContent = "Asking for the graphics device";
      if (phase === "config") this.#detail.textContent = "Reading the model’s description";
      if (phase === "weights") this.#detail.textContent = weightsLine(done, total, rate.add(done, performance.now()));
      if (phase === "shaders") this.#detail.textContent = `Compiling shaders, ${done} of ${total}`;
    };
  }

  #pickers() {
    const files = byId("files-input", HTMLInputElement);
    const folder = byId("folder-input", HTMLInputElement);
    byId("open-files", HTMLButtonElement).addEventListener("click", () => files.click());
    byId("open-folder", HTMLButtonElement).addEventListener("click", () => void this.#pickFolder(folder));
    for (const input of [files, folder]) {
      input.addEventListener("change", () => {
        const picked = [...(input.files ?? [])];
        input.value = "";
        if (picked.length > 0) void this.load(picked, picked[0]?.webkitRelativePath.split("/")[0] || "your files");
      });
    }
  }

  /** @param {HTMLInputElement} fallback for browsers without showDirectoryPicker */
  async #pickFolder(fallback) {
    if (!("showDirectoryPicker" in window)) {
      fallback.click();
      return;
    }
    const pick = /** @type {() => Promise<FileSystemDirectoryHandle>} */ (window.showDirectoryPicker);
    try {
      const handle = await pick.call(window);
      await this.load(handle, handle.name);
    } catch (thrown) {
      // Closing the picker without a choice is no failure.
      if (!(thrown instanceof DOMException && thrown.name === "AbortError")) this.#events.onFailed(thrown, () => void this.#pickFolder(fallback));
    }
  }
}
