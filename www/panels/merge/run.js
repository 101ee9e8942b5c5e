/** A merge as it runs: where to, start, stop, progress per tensor with the remaining time. */

import { BiseError, merge } from "../../pkg/index.js";
import { byId } from "../dom.js";
import { Rate, waitingLine, weightsLine } from "../format.js";
import { places, writeInto } from "./output.js";

/** @typedef {import("../../pkg/index.js").TensorReport} TensorReport */
/** @typedef {import("../../pkg/index.js").MergeReport} MergeReport */
/** @typedef {import("../../pkg/index.js").Waiting} Waiting */
/** @typedef {import("../models.js").Watch} Watch */
/** @typedef {"chat" | "folder" | "download" | "storage"} Destination */
/** @typedef {{ recipe: string, models: import("../../pkg/index.js").Models, name: string }} Job */

/**
 * How a merge ended well: its report, and where its result is.
 * @typedef {{ job: Job, report: MergeReport | null, destination: Destination, directory: FileSystemDirectoryHandle | null, label: string }} Result
 */

/**
 * @typedef {object} Surroundings
 * @property {() => Job | null} job null while the recipe has an error
 * @property {(job: Job, watch: Watch) => Promise<MergeReport | null | false>} loadIntoChat false: it did not load
 * @property {() => void} cancelLoad
 * @property {() => void} onStart
 * @property {(tensor: TensorReport) => void} onTensor
 * @property {(result: Result) => void} onDone
 * @property {(destination: Destination) => void} onStopped
 * @property {(thrown: unknown) => void} onFailed
 */

export class RunPanel {
  #around;
  #form = byId("run-form", HTMLFormElement);
  #start = byId("run-start", HTMLButtonElement);
  #stop = byId("run-stop", HTMLButtonElement);
  #f8 = byId("run-f8", HTMLInputElement);
  #f8Row = byId("run-f8-row", HTMLElement);
  #progress = byId("run-progress", HTMLProgressElement);
  #box = byId("run-box", HTMLElement);
  #line = byId("run-line", HTMLElement);
  #tensor = byId("run-tensor", HTMLElement);
  #announcer = byId("run-announcer", HTMLElement);
  /** @type {AbortController | null} */
  #running = null;
  #tensors = 0;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
    this.#form.addEventListener("change", () => this.#refresh());
    this.#stop.addEventListener("click", () => {
      this.#running?.abort();
      this.#line.textContent = "Stopping";
    });
    this.#offer();
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** @returns {Destination} */
  get destination() {
    const chosen = /** @type {const} */ (["folder", "download", "storage"]).find((each) => byId(`to-${each}`, HTMLInputElement).checked);
    return chosen ?? "chat";
  }

  /** @param {Destination} destination */
  choose(destination) {
    byId(`to-${destination}`, HTMLInputElement).checked = true;
    this.#refresh();
    byId(`to-${destination}`, HTMLInputElement).focus();
  }

  /**
   * @param {boolean} isReady whether the recipe can be merged
   * @param {string} label of the start button
   */
  update(isReady, label) {
    this.#start.disabled = !isReady;
    this.#start.textContent = label;
  }

  /** What this browser can do. */
  #offer() {
    byId("no-webgpu", HTMLElement).hidden = "gpu" in navigator;
    const offered = places();
    for (const [place, note] of /** @type {const} */ ([["folder", "no-picker"], ["download", "no-download"]])) {
      byId(`to-${place}`, HTMLInputElement).disabled = !offered.includes(place);
      byId(note, HTMLElement).hidden = offered.includes(place);
    }
    this.#refresh();
  }

  #refresh() {
    this.#f8Row.hidden = this.destination === "chat";
    this.#start.hidden = this.#running !== null;
    this.#stop.hidden = this.#running === null;
    for (const input of this.#form.querySelectorAll("fieldset")) input.disabled = this.#running !== null;
  }

  async #run() {
    const job = this.#around.job();
    if (job === null || this.#running) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#tensors = 0;
    this.#refresh();
    this.#around.onStart();
    const { destination } = this;
    try {
      const result = destination === "chat" ? await this.#intoChat(job, controller.signal) : await this.#intoFiles(job, destination, controller);
      // Who picks no folder has started nothing.
      const hasBegun = !this.#box.hidden;
      this.#announcer.textContent = result ? "The merge is done." : hasBegun ? "The merge was stopped." : "";
      this.#box.hidden = true;
      if (result) this.#around.onDone(result);
      else if (hasBegun) this.#around.onStopped(destination);
    } catch (thrown) {
      this.#announcer.textContent = "";
      this.#box.hidden = true;
      this.#around.onFailed(thrown);
    } finally {
      this.#running = null;
      this.#refresh();
    }
  }

  /** @param {string} line */
  #begin(line) {
    this.#progress.removeAttribute("value");
    this.#line.textContent = line;
    this.#tensor.textContent = "";
    this.#box.hidden = false;
    this.#box.scrollIntoView({ block: "nearest" });
    this.#announcer.textContent = "Merging.";
  }

  /** @param {TensorReport} tensor */
  #onTensor(tensor) {
    this.#tensors += 1;
    this.#tensor.textContent = `Tensor ${this.#tensors}: ${tensor.tensor}`;
    this.#around.onTensor(tensor);
  }

  #reporter() {
    const rate = new Rate(10_000);
    return (/** @type {number} */ done, /** @type {number} */ total, /** @type {Waiting | undefined} */ waiting) => {
      if (total > 0) this.#progress.value = done / total;
      const line = weightsLine(done, total, waiting ? 0 : rate.add(done, performance.now()));
      this.#line.textContent = waiting ? waitingLine(line, waiting) : line;
    };
  }

  /**
   * @param {Job} job
   * @param {AbortSignal} signal
   * @returns {Promise<Result | null>} null: stopped
   */
  async #intoChat(job, signal) {
    this.#begin("Asking for the graphics device");
    const show = this.#reporter();
    const stop = () => this.#around.cancelLoad();
    signal.addEventListener("abort", stop);
    /** @type {{ thrown: unknown } | null} */
    let failed = null;
    const report = await this.#around.loadIntoChat(job, {
      onProgress: ({ phase, done, total, waiting }) => {
        if (phase === "weights") show(done, total, waiting);
        if (phase === "shaders") this.#line.textContent = `Compiling shaders, ${done} of ${total}`;
      },
      onTensor: (tensor) => this.#onTensor(tensor),
      onFailed: (thrown) => { failed = { thrown }; },
    });
    signal.removeEventListener("abort", stop);
    const { thrown } = /** @type {{ thrown: unknown } | null} */ (failed) ?? { thrown: null };
    if (thrown !== null && !(thrown instanceof BiseError && thrown.code === "aborted")) throw thrown;
    return report === false ? null : { job, report, destination: "chat", directory: null, label: "loaded for the chat" };
  }

  /**
   * @param {Job} job
   * @param {import("./output.js").Place} place
   * @param {AbortController} controller
   * @returns {Promise<Result | null>} null: stopped, or no folder picked
   */
  async #intoFiles(job, place, controller) {
    const instead = "Save it into a folder instead, as FP8, or delete merges that are kept here.";
    const show = this.#reporter();
    const f8 = this.#f8.checked;
    const onTensor = (/** @type {TensorReport} */ tensor) => this.#onTensor(tensor);
    const result = await writeInto(
      { place, name: job.name, instead },
      controller,
      (options) => merge(job.recipe, { ...options, models: job.models, f8, onTensor }),
      {
        onBegin: () => this.#begin("Reading the models’ descriptions"),
        onProgress: ({ file, done, total, waiting }) => {
          show(done, total, waiting);
          if (done === total && !file.endsWith(".safetensors")) this.#line.textContent = `Writing ${file}`;
        },
      },
    );
    if (result === null) return null;
    const { written: report, directory, label } = result;
    return { job, report, destination: place, directory, label };
  }
}
