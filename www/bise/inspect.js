/** What a checkpoint holds and what it would take, before its weights are fetched. */

import { Bridge } from "./bridge.js";
import { afterLoss } from "./engine.js";
import { BiseError, badRequest } from "./errors.js";
import { checkLoadOptions, resolveModel } from "./model.js";
import { checkNames } from "./options.js";
import { spawnWorker } from "./spawn.js";

/** @typedef {import("./protocol.js").Inspection} Inspection */
/** @typedef {import("./protocol.js").RawInspection} RawInspection */

/** @typedef {Pick<import("./model.js").LoadOptions, "backend" | "weights" | "contextLength" | "kvCache" | "signal" | "hubUrl" | "headers" | "token">} InspectOptions */

const OPTIONS = Object.freeze(["backend", "weights", "contextLength", "kvCache", "signal", "hubUrl", "headers", "token"]);

/**
 * Describes a checkpoint without loading it: reads config.json, the tokenizer's files and the headers of the weight files.
 * Needs no WebGPU. `problems` say what of the model does not fit where it would run: into the adapter's limits, or into
 * the memory that WebAssembly has.
 *
 * @param {import("./model.js").PlainModel} model
 * @param {InspectOptions} [options]
 * @returns {Promise<Inspection>}
 * @throws {BiseError}
 */
export async function inspect(model, options) {
  return inspectWith(model, options, spawnWorker);
}

/**
 * {@link inspect} with a given way to start the worker.
 *
 * @param {import("./model.js").PlainModel} model
 * @param {InspectOptions | undefined} options
 * @param {() => Worker} spawn
 * @returns {Promise<Inspection>}
 */
export async function inspectWith(model, options, spawn) {
  const { engine, signal, ...rest } = checkLoadOptions(checkNames(options, OPTIONS, "inspect options"));
  const { source } = resolveModel(model, rest, globalThis.document?.baseURI ?? globalThis.location.href);
  if (source.kind === "merge") throw badRequest("inspect takes a checkpoint; recipeOutline reads a recipe.");
  if (signal?.aborted) throw new BiseError("aborted", "The inspection was aborted.", { cause: signal.reason });
  const bridge = new Bridge(spawn());
  try {
    const inspecting = bridge.call({ type: "inspect", source, options: { ...engine, ...afterLoss(rest.backend) } }, signal ? { signal } : {});
    const [raw, storage] = await Promise.all([inspecting, freeStorage()]);
    return toPublic(raw, storage);
  } finally {
    void bridge.close(badRequest("This inspection has ended."));
  }
}

/** @returns {Promise<Inspection["storage"]>} */
async function freeStorage() {
  try {
    const { quota, usage = 0 } = await navigator.storage.estimate();
    return quota === undefined ? null : { freeBytes: Math.max(0, quota - usage), quotaBytes: quota };
  } catch {
    return null; // No secure page, or a browser that does not tell.
  }
}

/**
 * @param {RawInspection} raw
 * @param {Inspection["storage"]} storage
 * @returns {Inspection}
 */
function toPublic(raw, storage) {
  const weights = raw.total_bytes - raw.kv_cache_bytes - raw.activation_bytes;
  return {
    architecture: raw.architecture,
    parameters: raw.parameters,
    layers: raw.layers,
    vocab: raw.vocab,
    dtype: raw.dtype,
    scales: raw.scales,
    tensors: raw.tensors,
    files: raw.shards,
    downloadBytes: raw.weight_bytes,
    weights: raw.weights,
    contextLength: raw.context_length,
    maxContextLength: raw.max_context_length,
    slidingWindow: raw.sliding_window,
    memory: { weights, kvCache: raw.kv_cache_bytes, activations: raw.activation_bytes, total: raw.total_bytes },
    contexts: raw.contexts.map(({ context_length: contextLength, kv_cache_bytes: kvCache, activation_bytes: activations }) => (
      { contextLength, kvCache, activations, total: weights + kvCache + activations }
    )),
    backend: raw.backend,
    backendReason: raw.backend_reason,
    adapter: raw.adapter === null ? null : { name: raw.adapter, software: raw.software, maxBindingBytes: raw.max_binding_bytes },
    problems: raw.problems,
    storage,
    chat: raw.chat,
    tokenizer: raw.tokenizer,
    kept: raw.kept,
  };
}
