/** Where the files of a checkpoint go while it is written: a folder, a download, or the browser's storage. */

import { BiseError } from "../../pkg/index.js";
import { formatBytes } from "../format.js";
import { directoryPicker } from "../pick.js";
import { canDownload, startDownload } from "./download.js";
import { fileName, freeBytes, newOutput } from "./storage.js";

/** @typedef {"folder" | "download" | "storage"} Place */
/** @typedef {import("../../pkg/index.js").MergeProgress} MergeProgress */

/**
 * @typedef {object} Output
 * @property {import("../../pkg/index.js").MergeOptions["output"]} output
 * @property {FileSystemDirectoryHandle | null} directory
 * @property {string} label
 * @property {() => Promise<void>} finish
 * @property {(reason: unknown) => Promise<void>} discard
 * @property {AbortSignal | null} cancelled by the visitor, elsewhere than in this page
 */

/**
 * What a writer is to be called with.
 * @typedef {{ output: Output["output"], signal: AbortSignal, onProgress: (progress: MergeProgress) => void }} WriteOptions
 */

/**
 * What was written: what the writer gave, and where it is.
 * @template T
 * @typedef {{ written: T, directory: FileSystemDirectoryHandle | null, label: string }} Written
 */

/** The places that this browser has, the best first. @returns {Place[]} */
export function places() {
  return [...(directoryPicker() === null ? [] : /** @type {const} */ (["folder"])), ...(canDownload() ? /** @type {const} */ (["download"]) : []), "storage"];
}

/**
 * Lets `write` write a checkpoint of that name. What is not completed is thrown away.
 *
 * @template T
 * @param {{ place: Place, name: string, instead: string }} to `instead`: what to do where the storage has no room
 * @param {AbortController} controller
 * @param {(options: WriteOptions) => Promise<T>} write
 * @param {{ onBegin: () => void, onProgress: (progress: MergeProgress) => void }} show
 * @returns {Promise<Written<T> | null>} null: stopped, or no folder picked
 * @throws {BiseError}
 */
export async function writeInto({ place, name, instead }, controller, write, show) {
  const output = await openOutput(place, name);
  if (output === null) return null;
  show.onBegin();
  const free = place === "storage" ? await freeBytes() : null;
  let tooLarge = 0;
  output.cancelled?.addEventListener("abort", () => controller.abort());
  try {
    const written = await write({
      output: output.output,
      signal: controller.signal,
      onProgress: (progress) => {
        show.onProgress(progress);
        // Better now than at the end of a long download.
        if (free !== null && progress.total > free && tooLarge === 0) {
          tooLarge = progress.total;
          controller.abort();
        }
      },
    });
    await output.finish();
    return { written, directory: output.directory, label: output.label };
  } catch (failed) {
    // What was not completed is no checkpoint, and nothing else is in this directory.
    await output.discard(failed).catch((error) => console.warn(error));
    if (tooLarge > 0) {
      throw new BiseError("quota", `The checkpoint needs ${formatBytes(tooLarge)}, but this browser’s storage has only ${formatBytes(free ?? 0)} left for this page. ${instead}`);
    }
    // Why a download ended says more than that its stream is closed.
    const thrown = output.cancelled?.aborted ? output.cancelled.reason : failed;
    if (thrown instanceof BiseError && thrown.code === "aborted") return null;
    throw thrown;
  }
}

/**
 * @param {Place} place
 * @param {string} name
 * @returns {Promise<Output | null>} null: no folder was picked
 */
async function openOutput(place, name) {
  if (place === "download") {
    const file = fileName(name);
    const { open, finish, abort, cancelled } = await startDownload(file);
    return { output: open, directory: null, label: `“${file}.tar” among your downloads`, finish, discard: async (reason) => abort(reason), cancelled };
  }
  const output = await newOutput(place, name);
  if (output === null) return null;
  const { directory, label, remove } = output;
  return { output: directory, directory, label, finish: async () => {}, discard: remove, cancelled: null };
}
