/** Checkpoints that are written, a merge or a copy of one model, in a worker of their own; needs no WebGPU. */

import { Bridge } from "./bridge.js";
import { BiseError, badRequest } from "./errors.js";
import { checkNetwork, checkToken, plainHeaders } from "./model.js";
import { checkKind, checkNames, describe, oneOf } from "./options.js";
import { lendOutput } from "./sink.js";

/**
 * What every writing of a checkpoint takes.
 * @typedef {object} WriteOptions
 * @property {FileSystemDirectoryHandle | import("./sink.js").OpenFile} output an empty directory (picked, or of the origin's
 *   own storage), or a function that opens a WritableStream for each file
 * @property {"auto" | "webgpu" | "cpu"} [backend] where to merge; "auto" takes a GPU unless it is a software adapter
 * @property {number} [shardBytes] longest data of a weight file; default 5,000,000,000
 * @property {string} [hubUrl]
 * @property {Record<string, string> | Headers} [headers]
 * @property {string} [token] as for {@link import("./model.js").LoadOptions}
 * @property {import("./model.js").Network} [network] how patient to be with servers
 * @property {(progress: import("./protocol.js").MergeProgress) => void} [onProgress]
 * @property {(tensor: import("./protocol.js").TensorReport) => void} [onTensor]
 * @property {AbortSignal} [signal]
 */

export const WRITE_OPTIONS = Object.freeze(
  ["output", "backend", "shardBytes", "hubUrl", "headers", "token", "network", "onProgress", "onTensor", "signal"],
);

/**
 * @param {unknown} given
 * @param {readonly string[]} known
 * @param {string} what
 * @returns {{ options: WriteOptions, more: Record<string, unknown>, sent: import("./model.js").FetchOptions }} `sent` is what
 *   models are looked up and fetched with
 */
export function checkWriteOptions(given, known, what) {
  const more = checkNames(given, known, what);
  const options = /** @type {WriteOptions} */ (/** @type {unknown} */ (more));
  const { backend, shardBytes, onProgress, onTensor, signal, hubUrl, token, network, headers } = options;
  oneOf("backend", backend, ["auto", "webgpu", "cpu"]);
  if (shardBytes !== undefined) checkKind("shardBytes", shardBytes, "count");
  if (onProgress !== undefined) checkKind("onProgress", onProgress, "function");
  if (onTensor !== undefined) checkKind("onTensor", onTensor, "function");
  if (signal !== undefined) checkKind("signal", signal, "signal");
  if (hubUrl !== undefined) checkKind("hubUrl", hubUrl, "string");
  checkToken(token);
  checkNetwork(network);
  const sent = { hubUrl, token, network, ...(headers === undefined ? {} : { headers: plainHeaders(headers) }) };
  return { options, more, sent };
}

/** The address that relative ones start from. */
export function pageUrl() {
  return globalThis.document?.baseURI ?? globalThis.location.href;
}

/**
 * Writes a checkpoint. Side files come first, then weights, and last config.json and the index, so that what was
 * interrupted is no checkpoint.
 *
 * @param {{ source: import("./protocol.js").Source, name: string, f8: boolean }} what
 * @param {WriteOptions} options
 * @param {string} title for messages: "The merge"
 * @param {() => Worker} spawn
 * @returns {Promise<import("./protocol.js").MergeReport>}
 */
export async function writeCheckpoint({ source, name, f8 }, options, title, spawn) {
  const { output, backend = "auto", shardBytes = null, onProgress, onTensor, signal } = options;
  if (signal?.aborted) throw new BiseError("aborted", `${title} was aborted.`, { cause: signal.reason });
  const { target, transfer, end, close } = lend(output);
  const bridge = new Bridge(spawn());
  // A stream that holds a write back would hold the abort back with it.
  signal?.addEventListener("abort", end, { once: true });
  try {
    const writing = bridge.call(
      { type: "merge", source, output: target, options: { backend, f8, shardBytes, name } },
      {
        transfer,
        onEvent: (event) => {
          if (signal?.aborted) return;
          if (event.type === "merging") onProgress?.(event.progress);
          if (event.type === "tensor") onTensor?.(event.tensor);
        },
        ...(signal ? { signal } : {}),
      },
    );
    // An abort is waited for: only then is the output tidy.
    return await writing;
  } finally {
    signal?.removeEventListener("abort", end);
    await bridge.close(badRequest(`${title} has ended.`));
    end();
    close();
  }
}

/**
 * The output as something that can cross to the worker.
 *
 * @param {unknown} output
 * @returns {{ target: FileSystemDirectoryHandle | MessagePort, transfer: Transferable[], end: () => void, close: () => void }}
 */
function lend(output) {
  if (typeof output === "function") {
    const { port1, port2 } = new MessageChannel();
    const end = lendOutput(port1, /** @type {import("./sink.js").OpenFile} */ (output));
    return { target: port2, transfer: [port2], end, close: () => port1.close() };
  }
  const handle = /** @type {FileSystemDirectoryHandle | undefined} */ (output);
  if (typeof handle === "object" && handle !== null && handle.kind === "directory") {
    return { target: handle, transfer: [], end: () => {}, close: () => {} };
  }
  throw badRequest(`output must be a directory handle or a function that opens a stream for each file, not ${describe(output)}.`);
}
