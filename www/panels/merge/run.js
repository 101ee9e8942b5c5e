/** A merge as it runs: where to, start, stop, progress per tensor with the remaining time. */

import { BiseError, merge } from "../../pkg/index.js";
import { byId } from "../dom.js";
import { Rate, formatBytes, waitingLine, weightsLine } from "../format.js";
import { directoryPicker } from "../pick.js";
import { canDownload, startDownload } from "./download.js";
import { fileName, freeBytes, newOutput } from "./storage.js";

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
 * Where the files of a merge go.
 * @typedef {object} Output
 * @property {import("../../pkg/index.js").MergeOptions["output"]} output
 * @property {FileSystemDirectoryHandle | null} directory
 * @property {string} label
 * @property {() => Promise<void>} finish
 * @property {(reason: unknown) => Promise<void>} discard
 * @property {AbortSignal | null} cancelled by the visitor, elsewhere than in this panel
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
    byId("to-folder", HTMLInputElement).disabled = directoryPicker() === null;
    byId("no-picker", HTMLElement).hidden = directoryPicker() !== null;
    byId("to-download", HTMLInputElement).disabled = !canDownload();
    byId("no-download", HTMLElement).hidden = canDownload();
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
   * @param {"folder" | "download" | "storage"} kind
   * @param {AbortController} controller
   * @returns {Promise<Result | null>} null: stopped, or no folder picked
   */
  async #intoFiles(job, kind, controller) {
    const output = await openOutput(kind, job.name);
    if (output === null) return null;
    this.#begin("Reading the models’ descriptions");
    const show = this.#reporter();
    const free = kind === "storage" ? await freeBytes() : null;
    let tooLarge = 0;
    output.cancelled?.addEventListener("abort", () => controller.abort());
    try {
      const report = await merge(job.recipe, {
        models: job.models,
        output: output.output,
        f8: this.#f8.checked,
        signal: controller.signal,
        onProgress: ({ file, done, total, waiting }) => {
          show(done, total, waiting);
          if (done === total && !file.endsWith(".safetensors")) this.#line.textContent = `Writing ${file}`;
          // Better now than at the end of a long download.
          if (free !== null && total > free && tooLarge === 0) {
            tooLarge = total;
            controller.abort();
          }
        },
        onTensor: (tensor) => this.#onTensor(tensor),
      });
      await output.finish();
      return { job, report, destination: kind, directory: output.directory, label: output.label };
    } catch (failed) {
      // What an ended merge leaves is no checkpoint, and nothing else is in this directory.
      await output.discard(failed).catch((error) => console.warn(error));
      if (tooLarge > 0) {
        throw new BiseError("quota", `The merge needs ${formatBytes(tooLarge)}, but this browser’s storage has only ${formatBytes(free ?? 0)} left for this page. Save it into a folder instead, as FP8, or delete merges that are kept here.`);
      }
      // Why a download ended says more than that its stream is closed.
      const thrown = output.cancelled?.aborted ? output.cancelled.reason : failed;
      if (thrown instanceof BiseError && thrown.code === "aborted") return null;
      throw thrown;
    }
  }
}

/**
 * @param {"folder" | "download" | "storage"} kind
 * @param {string} name
 * @returns {Promise<Output | null>} null: no folder was picked
 */
async function openOutput(kind, name) {
  if (kind === "download") {
    const file = fileName(name);
    const { open, finish, abort, cancelled } = await startDownload(file);
    return { output: open, directory: null, label: `“${file}.tar” among your downloads`, finish, discard: async (reason) => abort(reason), cancelled };
  }
  const output = await newOutput(kind, name);
  if (output === null) return null;
  const { directory, label, remove } = output;
  return { output: directory, directory, label, finish: async () => {}, discard: remove, cancelled: null };
}
