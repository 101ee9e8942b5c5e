/** Saving a model as an FP8 checkpoint, in a worker; needs no WebGPU. */

import { resolveModel } from "./model.js";
import { checkNames } from "./options.js";
import { spawnWorker } from "./spawn.js";
import { WRITE_OPTIONS, checkWriteOptions, pageUrl, writeCheckpoint } from "./write.js";

/** @typedef {import("./errors.js").BiseError} BiseError */
/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./protocol.js").MergeReport} MergeReport */
/** @typedef {import("./write.js").WriteOptions} SaveOptions */

/**
 * Where an engine's weights came from, without what may be secret.
 * @typedef {{ model: Model, hubUrl?: string | undefined, network?: import("./model.js").Network | undefined }} Origin
 */

/**
 * Saves a model as an FP8 checkpoint that transformers and vLLM load: linear weights F8_E4M3 with one scale per row
 * (compressed-tensors, naive-quantized, channel), all else as it is. The model is read from where it lies, tensor by
 * tensor; `{ recipe, models }` is merged. Weights are those that `weights: "f8"` loads, bit for bit, except where FP8
 * with several scales in a row, E5M2, or FP8 embeddings have to be rounded once more: then the report warns.
 *
 * @param {Model} model as for {@link import("./engine.js").Engine.load}
 * @param {SaveOptions} options
 * @returns {Promise<MergeReport>} what was done to each tensor
 * @throws {BiseError}
 */
export async function save(model, options) {
  return saveWith(model, options, spawnWorker);
}

/**
 * {@link save} with a given way to start the worker.
 *
 * @param {Model} model
 * @param {SaveOptions} given
 * @param {() => Worker} spawn
 * @returns {Promise<MergeReport>}
 */
export async function saveWith(model, given, spawn) {
  const { options, sent } = checkWriteOptions(given, WRITE_OPTIONS, "save options");
  const { source, name } = resolveModel(model, sent, pageUrl());
  return writeCheckpoint({ source, name, f8: true }, options, "The save", spawn);
}

/**
 * {@link save} of what an engine has loaded.
 *
 * @param {Origin} origin
 * @param {SaveOptions} given
 * @param {() => Worker} spawn
 * @returns {Promise<MergeReport>}
 */
export async function saveOrigin({ model, hubUrl, network }, given, spawn) {
  const options = checkNames(given, WRITE_OPTIONS, "save options");
  return saveWith(model, /** @type {SaveOptions} */ (/** @type {unknown} */ ({ hubUrl, network, ...options })), spawn);
}
