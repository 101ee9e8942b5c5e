/** Choosing a model, and its load: bytes, rate, remaining time, then shaders. */

import { BiseError, Engine, HUB_URL, inspect } from "../pkg/index.js";
import { evenBlend } from "./blend.js";
import { ConfirmPanel, needsNoQuestion } from "./confirm.js";
import { byId } from "./dom.js";
import { acceptDrops } from "./drop.js";
import { Rate, fromHubPage, waitingLine, weightsLine } from "./format.js";
import { KeptPanel } from "./kept.js";

/** @typedef {import("../pkg/index.js").Engine} LoadedEngine */
/** @typedef {Parameters<typeof Engine.load>[0]} Model */
/** @typedef {NonNullable<Parameters<typeof Engine.load>[1]>} LoadOptions */
/** @typedef {NonNullable<LoadOptions["onProgress"]>} OnProgress */

/**
 * Who else follows a load: a merge shows it in its own place.
 * @typedef {Pick<LoadOptions, "onProgress" | "onTensor"> & { onFailed: (error: unknown) => void }} Watch
 */

/**
 * @typedef {object} Events
 * @property {(isAgain: boolean) => Promise<void>} onUnload the loaded model has to go before another comes, or the same
 * @property {(engine: LoadedEngine, name: string, model: Model, isAgain: boolean) => void} onLoaded
 * @property {(error: unknown, retry: () => void) => void} onFailed
 */

const ASKING = "Looking for a graphics device";

export class ModelsPanel {
  #events;
  #backend;
  #kept;
  #panel = byId("models-panel", HTMLDetailsElement);
  #nameLabel = byId("model-name", HTMLElement);
  #address = byId("model-address", HTMLInputElement);
  #token = byId("hub-token", HTMLInputElement);
  #weights = byId("weights", HTMLSelectElement);
  #confirm = new ConfirmPanel();
  #loading = byId("loading", HTMLElement);
  #title = byId("loading-title", HTMLElement);
  #progress = byId("load-progress", HTMLProgressElement);
  #detail = byId("load-detail", HTMLElement);
  #announcer = byId("announcer", HTMLElement);
  #choices = /** @type {HTMLButtonElement[]} */ ([...document.querySelectorAll("#embedded button")]);
  /** @type {AbortController | null} */
  #controller = null;
  /** What the buttons load. @type {ReadonlyMap<HTMLButtonElement, Model>} */
  #offers = new Map(this.#choices.map((choice) => [choice, choice.dataset.model ?? evenBlend(0.5)]));
  /** What was loaded last. @type {{ model: Model, name: string } | null} */
  #last = null;
  /** Loads that once more. @type {() => void} */
  #again = () => this.loadDefault();

  /**
   * @param {import("./backend.js").BackendPanel} backend
   * @param {Events} events
   */
  constructor(backend, events) {
    this.#backend = backend;
    this.#events = events;
    this.#kept = new KeptPanel((thrown) => events.onFailed(thrown, () => void this.#kept.refresh()));
    void this.#kept.refresh();
    for (const choice of this.#choices) {
      choice.addEventListener("click", () => void this.load(this.#offers.get(choice) ?? "", choice.dataset.name ?? ""));
    }
    byId("models-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      const address = fromHubPage(this.#address.value.trim(), HUB_URL);
      if (address === "") this.#address.focus();
      else void this.load(address, address);
    });
    byId("cancel-load", HTMLButtonElement).addEventListener("click", () => this.cancel());
    this.#pickers();
    acceptDrops((files, name) => void this.load(files, name), (error) => this.#events.onFailed(error, () => this.openPanel()));
  }

  /** Loads the first of the page's own models. */
  loadDefault() {
    this.#choices[0]?.click();
  }

  /** Loads once more what was loaded last; the conversation stays. */
  reload() {
    this.#again();
  }

  /** Loads it on another backend, which may have to fetch it in another form: that is asked about. */
  moveOver() {
    const last = this.#last;
    return last === null ? Promise.resolve(false) : this.load(last.model, last.name, undefined, true);
  }

  /** Shows that no model is loaded. */
  unload() {
    this.#nameLabel.textContent = "none";
    for (const choice of this.#choices) choice.setAttribute("aria-pressed", "false");
  }

  /** Ends the loaded model, so that another has room. */
  async close() {
    this.cancel();
    await this.#events.onUnload(false);
    this.unload();
  }

  openPanel() {
    this.#panel.open = true;
    this.#address.focus();
  }

  /** Ends the load that runs. */
  cancel() {
    this.#controller?.abort();
  }

  /**
   * Loads a model; large ones only after the visitor has seen what they take.
   *
   * @param {Model} model
   * @param {string} name
   * @param {Watch} [watch]
   * @param {boolean} [isAgain] the conversation goes on
   * @returns {Promise<boolean | null>} whether it is loaded; null: the visitor would rather not
   */
  async load(model, name, watch, isAgain = false) {
    const isWhole = this.#weights.value === "checkpoint";
    const options = { ...(isWhole ? { weights: /** @type {const} */ ("checkpoint") } : {}), ...this.access(model) };
    const isOwn = [...this.#offers.values()].includes(model);
    if (isOwn || watch || (typeof model === "object" && "recipe" in model)) return this.#start(model, name, options, watch, isAgain);
    const controller = this.#supersede();
    try {
      // What is kept tells this by itself, without a network, too.
      this.#show(`Looking at ${name}`, "Reading the model’s description");
      const inspection = await inspect(model, { ...options, ...this.#backend.options(), signal: controller.signal });
      if (controller.signal.aborted) return false;
      this.#loading.hidden = true;
      if (needsNoQuestion(inspection)) return await this.#start(model, name, options, undefined, isAgain);
      const other = inspection.problems.length > 0 ? this.#backend.other(inspection.backend) : null;
      const contextLength = await this.#confirm.ask(name, inspection, { local: typeof model !== "string", signal: controller.signal, other: other?.label ?? null });
      if (contextLength === "other") {
        other?.choose();
        return await this.load(model, name, undefined, isAgain);
      }
      return contextLength === null ? null : await this.#start(model, name, { ...options, contextLength }, undefined, isAgain);
    } catch (thrown) {
      // What is loaded stays so, whether the visitor changed their mind or the model cannot be had.
      if (!controller.signal.aborted) this.#events.onFailed(thrown, () => void this.load(model, name, undefined, isAgain));
      return false;
    } finally {
      if (this.#controller === controller) {
        this.#controller = null;
        this.#loading.hidden = true;
      }
    }
  }

  /**
   * Ends what is under way for something new.
   *
   * @returns {AbortController}
   */
  #supersede() {
    this.#controller?.abort();
    this.#controller = new AbortController();
    return this.#controller;
  }

  /**
   * The visitor's token, where the model lies on the hub: a URL never gets it.
   *
   * @param {Model} model
   */
  access(model) {
    const token = this.#token.value.trim();
    const onHub = typeof model === "object" ? "recipe" in model : !/^(https?:|\/|\.\.?\/)|\/$/i.test(model);
    return token !== "" && onHub ? { token } : {};
  }

  /**
   * @param {Model} model
   * @param {string} name
   * @param {LoadOptions} options
   * @param {Watch} [watch]
   * @param {boolean} [isAgain]
   * @returns {Promise<boolean>} whether it is loaded
   */
  async #start(model, name, options, watch, isAgain = false) {
    const controller = this.#supersede();
    this.#last = { model, name };
    this.#again = () => void this.#start(model, name, options, undefined, true);
    for (const choice of this.#choices) choice.setAttribute("aria-pressed", String(this.#offers.get(choice) === model));
    this.#begin(name);
    try {
      await this.#events.onUnload(isAgain);
      const engine = await Engine.load(model, {
        ...options,
        ...this.#backend.options(),
        onProgress: this.#reporter(watch),
        ...(watch?.onTensor ? { onTensor: watch.onTensor } : {}),
        signal: controller.signal,
      });
      this.#nameLabel.textContent = name;
      this.#kept.note(engine.info.cache.note);
      this.#announcer.textContent = `${name} is ready.`;
      if (matchMedia("(max-width: 52rem)").matches) this.#panel.open = false;
      this.#events.onLoaded(engine, name, model, isAgain);
      return true;
    } catch (thrown) {
      const replaced = this.#controller !== controller;
      if (replaced) return false;
      this.unload();
      if (watch) {
        watch.onFailed(thrown);
        return false;
      }
      const error = thrown instanceof BiseError && thrown.code === "aborted"
        ? new BiseError("aborted", `Loading ${name} was cancelled. Choose a model to go on.`)
        : thrown;
      this.#events.onFailed(error, this.#again);
      return false;
    } finally {
      if (this.#controller === controller) {
        this.#controller = null;
        this.#loading.hidden = true;
        void this.#kept.refresh();
      }
    }
  }

  /** @param {string} name */
  #begin(name) {
    this.#nameLabel.textContent = "loading";
    this.#show(`Loading ${name}`, ASKING);
  }

  /**
   * @param {string} title
   * @param {string} detail
   */
  #show(title, detail) {
    this.#title.textContent = title;
    this.#announcer.textContent = `${title}.`;
    this.#progress.removeAttribute("value");
    this.#detail.textContent = detail;
    this.#loading.hidden = false;
    this.#kept.note(null);
  }

  /**
   * @param {Watch | undefined} watch
   * @returns {OnProgress}
   */
  #reporter(watch) {
    const rate = new Rate(4000);
    return (progress) => {
      const { phase, done, total, waiting } = progress;
      watch?.onProgress?.(progress);
      if (progress.note !== undefined) this.#kept.note(progress.note);
      if (total > 0) this.#progress.value = done / total;
      else this.#progress.removeAttribute("value");
      if (phase === "adapter") this.#detail.textContent = ASKING;
      if (phase === "config") this.#detail.textContent = "Reading the model’s description";
      if (phase === "weights") this.#detail.textContent = weightsLine(done, total, rate.add(done, performance.now()));
      if (phase === "shaders") this.#detail.textContent = `Compiling shaders, ${done} of ${total}`;
      if (waiting) this.#detail.textContent = waitingLine(phase === "weights" ? weightsLine(done, total, 0) : "", waiting);
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
