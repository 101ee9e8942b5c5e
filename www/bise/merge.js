/** Merging checkpoints by a mergekit recipe, in a worker; needs no WebGPU. */

import { mergeSource, toModels } from "./model.js";
import { checkKind } from "./options.js";
import { spawnWorker } from "./spawn.js";
import { WRITE_OPTIONS, checkWriteOptions, pageUrl, writeCheckpoint } from "./write.js";

/** @typedef {import("./errors.js").BiseError} BiseError */
/** @typedef {import("./protocol.js").MergeReport} MergeReport */

/**
 * @typedef {import("./write.js").WriteOptions & MergeOnly} MergeOptions
 */

/**
 * @typedef {object} MergeOnly
 * @property {import("./model.js").Models} [models] where the recipe's models lie; a name that is left out is taken for
 *   a hub id or URL itself
 * @property {boolean} [f8] store linear weights as FP8 with one scale per row
 */

const OPTIONS = Object.freeze([...WRITE_OPTIONS, "models", "f8"]);

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
  const { options, more, sent } = checkWriteOptions(given, OPTIONS, "merge options");
  const { models, f8 = false } = more;
  checkKind("f8", f8, "boolean");
  const source = mergeSource(recipe, toModels(models), sent, pageUrl());
  return writeCheckpoint({ source, name: "merge", f8: f8 === true }, options, "The merge", spawn);
}
