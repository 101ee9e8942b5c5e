/** What this browser keeps of models: to list and to delete. */

import { badRequest } from "./errors.js";
import { resolveModel } from "./model.js";
import { checkNames } from "./options.js";
import { withoutQuery } from "./revision.js";
import { ENTRY_FILE, JOURNAL_FILE, PACK_FILE, changePins, lockName, openStore, orNull, readJson, readPins } from "./store.js";

/**
 * A kept model.
 *
 * @typedef {object} CachedModel
 * @property {string} id
 * @property {string} name as it was asked for
 * @property {string} url of its directory
 * @property {string | null} revision the hub's commit
 * @property {"f8" | "i8" | "checkpoint" | null} weights
 * @property {number} bytes it takes now
 * @property {boolean} complete whether it loads without a download; one that is not goes on where it stopped
 * @property {Date | null} lastUsed
 */

/**
 * What the weight files of a model had when they were first downloaded, where nothing else tells their hashes: later
 * downloads of the same version are compared with it. Outlives the model.
 *
 * @typedef {object} PinnedModel
 * @property {string} url of its directory
 * @property {Record<string, string>} sha256 by file name
 */

/** The models that this origin keeps; pages and workers of all its tabs share them. */
export const cache = Object.freeze({ list, remove, clear, space, pinned, forget });

/** @returns {Promise<CachedModel[]>} the last used first */
async function list() {
  const store = await existing();
  if (store === null) return [];
  const models = [];
  for await (const directory of values(store)) {
    if (directory.kind !== "directory") continue;
    const model = await orNull(() => describe(directory));
    if (model !== null) models.push(model);
  }
  return models.sort((a, b) => Number(b.lastUsed) - Number(a.lastUsed));
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @returns {Promise<CachedModel>}
 */
async function describe(directory) {
  const entry = /** @type {Partial<import("./store.js").Entry> | null} */ (await readJson(directory, ENTRY_FILE));
  let bytes = 0;
  for (const file of [PACK_FILE, JOURNAL_FILE]) {
    const handle = await orNull(() => directory.getFileHandle(file));
    bytes += (await handle?.getFile())?.size ?? 0;
  }
  const { name = "unknown", url = "", revision = null, weights = null, complete = false, lastUsed } = entry ?? {};
  return { id: directory.name, name, url, revision, weights, bytes, complete, lastUsed: lastUsed ? new Date(lastUsed) : null };
}

/**
 * Deletes a kept model. Engines that were loaded from it are not affected.
 *
 * @param {string} id
 * @returns {Promise<boolean>} false if there is none of that id
 * @throws {import("./errors.js").BiseError} `bad-request` while it is being loaded
 */
async function remove(id) {
  const store = await existing();
  if (store === null || !(await list()).some((model) => model.id === id)) return false;
  const removed = await navigator.locks.request(lockName(id), { ifAvailable: true }, async (held) => {
    if (held !== null) await orNull(() => store.removeEntry(id, { recursive: true }));
    return held !== null;
  });
  if (!removed) throw badRequest("cache.remove: this model is being loaded: wait for it, or stop the load.");
  return true;
}

/**
 * Deletes all kept models.
 *
 * @returns {Promise<void>}
 * @throws {import("./errors.js").BiseError} `bad-request` if one of them is being loaded: the others are gone
 */
async function clear() {
  const results = await Promise.allSettled((await list()).map(({ id }) => remove(id)));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** @returns {Promise<{ free: number | null }>} bytes that this origin may still store; null where the browser does not tell */
async function space() {
  const { quota, usage } = await navigator.storage?.estimate?.() ?? {};
  return { free: quota === undefined || usage === undefined ? null : Math.max(0, quota - usage) };
}

/** @returns {Promise<PinnedModel[]>} */
async function pinned() {
  const store = await existing();
  /** @type {Map<string, PinnedModel>} */
  const models = new Map();
  for (const [place, { sha256 }] of Object.entries(store === null ? {} : await readPins(store))) {
    const end = place.lastIndexOf("/") + 1;
    const url = place.slice(0, end);
    const model = models.get(url) ?? { url, sha256: {} };
    model.sha256[place.slice(end)] = sha256;
    models.set(url, model);
  }
  return [...models.values()];
}

/**
 * Forgets what a model's weight files had when they were first downloaded: the way out of an `integrity` error where
 * the source has replaced them and calls them the same. The next download is compared with nothing, and remembered.
 *
 * @param {string} model its URL, or `owner/name`
 * @param {{ hubUrl?: string }} [options]
 * @returns {Promise<boolean>} false if nothing of it was remembered
 * @throws {import("./errors.js").BiseError} `bad-request` for what is no URL or name
 */
async function forget(model, options) {
  const { hubUrl } = /** @type {{ hubUrl?: string }} */ (checkNames(options, ["hubUrl"], "forget options"));
  const { source } = resolveModel(model, { hubUrl }, globalThis.document?.baseURI ?? globalThis.location.href);
  if (source.kind !== "http") throw badRequest("cache.forget: only of models that were fetched is anything remembered: pass a URL or owner/name.");
  const store = await existing();
  let found = false;
  if (store === null) return found;
  const url = withoutQuery(source.base);
  await changePins(store, (pins) => {
    for (const place of Object.keys(pins)) {
      // Weight files may lie in folders below it.
      if (!place.startsWith(url)) continue;
      delete pins[place];
      found = true;
    }
  });
  return found;
}

async function existing() {
  try {
    return await openStore(false);
  } catch {
    // This browser keeps nothing here, such as in some private windows.
    return null;
  }
}

/**
 * TypeScript's own declarations know no iteration of directories in every version.
 *
 * @param {FileSystemDirectoryHandle} directory
 */
function values(directory) {
  return /** @type {{ values(): AsyncIterable<FileSystemDirectoryHandle | FileSystemFileHandle> }} */ (/** @type {unknown} */ (directory)).values();
}
