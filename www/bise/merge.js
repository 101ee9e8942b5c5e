/** Merging checkpoints by a mergekit recipe, in a worker; needs no WebGPU. */

import { Bridge } from "./bridge.js";
import { BiseError, badRequest } from "./errors.js";
import { checkNetwork, checkToken, mergeSource, plainHeaders, toModels } from "./model.js";
import { checkKind, checkNames, describe, oneOf } from "./options.js";
import { lendOutput } from "./sink.js";
import { spawnWorker } from "./spawn.js";

/** @typedef {import("./protocol.js").MergeProgress} MergeProgress */
/** @typedef {import("./protocol.js").TensorReport} TensorReport */
/** @typedef {import("./protocol.js").MergeReport} MergeReport */

/**
 * @typedef {object} MergeOptions
 * @property {FileSystemDirectoryHandle | import("./sink.js").OpenFile} output an empty directory (picked, or of the origin's
 *   own storage), or a function that opens a WritableStream for each file
 * @property {import("./model.js").Models} [models] where the recipe's models lie; a name that is left out is taken for
 *   a hub id or URL itself
 * @property {"auto" | "webgpu" | "cpu"} [backend] where to compute; "auto" takes a GPU unless it is a software adapter
 * @property {boolean} [f8] store linear weights as FP8 with one scale per row
 * @property {number} [shardBytes] longest data of a weight file; default 5,000,000,000
 * @property {string} [hubUrl]
 * @property {Record<string, string> | Headers} [headers]
 * @property {string} [token] as for {@link import("./model.js").LoadOptions}
 * @property {import("./model.js").Network} [network] how patient to be with servers
 * @property {(progress: MergeProgress) => void} [onProgress]
 * @property {(tensor: TensorReport) => void} [onTensor]
 * @property {AbortSignal} [signal]
 */

const OPTIONS = Object.freeze(
  ["output", "models", "backend", "f8", "shardBytes", "hubUrl", "headers", "token", "network", "onProgress", "onTensor", "signal"],
);

/**
 * Merges by a recipe and writes an ordinary checkpoint. Side files come first, then weights, and last config.json and the index, so
 * that a merge that was interrupted leaves no checkpoint.
 *
 * @param {string} recipe mergekit YAML
 * @param {MergeOptions} options
 * @returns {Promise<MergeReport>}
 * @throws {BiseError}
 */
export async function merge(recipe, options) {
  return mergeWith(recipe, options, spawnWorker);
}

/**
 * {@link merge} with a given way to start the worker.
 *
 * @param {string} recipe
 * @param {MergeOptions} given
 * @param {() => Worker} spawn
 * @returns {Promise<MergeReport>}
 */
export async function mergeWith(recipe, given, spawn) {
  const options = /** @type {MergeOptions} */ (checkNames(given, OPTIONS, "merge options"));
  const { output, models, backend = "auto", f8, shardBytes, onProgress, onTensor, signal } = options;
  oneOf("backend", backend, ["auto", "webgpu", "cpu"]);
  if (f8 !== undefined) checkKind("f8", f8, "boolean");
  if (shardBytes !== undefined) checkKind("shardBytes", shardBytes, "count");
  if (onProgress !== undefined) checkKind("onProgress", onProgress, "function");
  if (onTensor !== undefined) checkKind("onTensor", onTensor, "function");
  if (signal !== undefined) checkKind("signal", signal, "signal");
  checkToken(options.token);
  checkNetwork(options.network);
  const { hubUrl, token, network, headers } = options;
  const sent = { hubUrl, token, network, ...(headers === undefined ? {} : { headers: plainHeaders(headers) }) };
  const source = mergeSource(recipe, toModels(models), sent, globalThis.document?.baseURI ?? globalThis.location.href);
  if (signal?.aborted) throw new BiseError("aborted", "The merge was aborted.", { cause: signal.reason });
  const { target, transfer, end, close } = lend(output);
  const bridge = new Bridge(spawn());
  // A stream that holds a write back would hold the abort back with it.
  signal?.addEventListener("abort", end, { once: true });
  try {
    const merging = bridge.call(
      { type: "merge", source, output: target, options: { backend, f8: f8 ?? false, shardBytes: shardBytes ?? null } },
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
    return await merging;
  } finally {
    signal?.removeEventListener("abort", end);
    await bridge.close(badRequest("This merge has ended."));
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
