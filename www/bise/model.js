/** What a `model` and the options of a load mean. */

import { badRequest } from "./errors.js";
import { checkKind, checkNames, describe, oneOf } from "./options.js";
import { isHash, withoutQuery } from "./revision.js";

/** @typedef {import("./protocol.js").Source} Source */

/**
 * A hub id, the URL of a directory, a picked directory, or picked files.
 * @typedef {string | FileSystemDirectoryHandle | Iterable<File>} PlainModel
 */

/**
 * Where the models of a recipe lie, by the names that the recipe gives them. A model that is left out is its name:
 * a hub id, or a URL from the page's.
 * @typedef {Record<string, PlainModel> | ReadonlyMap<string, PlainModel>} Models
 */

/**
 * A checkpoint, or a merge that is done while it is loaded and stored nowhere.
 * @typedef {PlainModel | { recipe: string, models?: Models }} Model
 */

/**
 * How patient to be with servers; numbers left out have the values given.
 * @typedef {object} Network
 * @property {number} [attempts] at the same bytes, the first included; 6
 * @property {number} [backoffMs] wait after the first failure, doubled with each further one; 500
 * @property {number} [stallMs] a connection that delivers nothing for so long is replaced; 30000
 */

/**
 * What is sent with requests and how often.
 * @typedef {{ hubUrl?: string | undefined, headers?: Record<string, string> | undefined,
 *   token?: string | undefined, network?: Network | undefined }} FetchOptions
 */

/**
 * @typedef {object} LoadOptions
 * @property {"auto" | "webgpu" | "cpu"} [backend] where to run; "auto" (the default) takes WebGPU where there is an
 *   adapter that is no software, else the processor; and the processor once after a device was lost, if it holds the model
 * @property {"f8" | "i8" | "checkpoint"} [weights] linear weights as FP8 (the default on WebGPU); as 8-bit integers where
 *   they are wider than FP8 (the default on the processor, and for it alone); or all as the checkpoint has them
 * @property {number} [contextLength] positions to reserve memory for; default: the model's limit, at most 4096
 * @property {"f16" | "f8"} [kvCache] keys and values as F16 (the default), or as FP8 with a scale for each key and value of
 *   a head: about half the memory, or twice the positions, and a little less accurate
 * @property {boolean} [autotune] time on the device how it computes fastest, while weights stream, and remember that in
 *   this browser (the default on GPUs, not on software adapters; not for the backend "cpu")
 * @property {boolean} [cache] keep the model in this browser, and load it from there the next time (the default for what
 *   is fetched; files, folders and merges are not kept, and `true` is refused for them)
 * @property {Record<string, string>} [integrity] SHA-256 of weight files, in hexadecimal by file name: another content is
 *   an error
 * @property {(progress: import("./protocol.js").Progress) => void} [onProgress]
 * @property {(tensor: import("./protocol.js").TensorReport) => void} [onTensor] what a merge did to each tensor; for
 *   merges alone
 * @property {AbortSignal} [signal]
 * @property {string} [hubUrl] where `owner/name` is looked up; for such names, and recipes, alone
 * @property {Record<string, string> | Headers} [headers] sent with each request, such as an Authorization for a gated model
 * @property {string} [token] access token for gated and private models of the hub: sent with requests for `owner/name`
 *   alone, to `hubUrl`, and kept nowhere
 * @property {Network} [network] how patient to be with servers; not for files and folders
 */

export const HUB_URL = "https://huggingface.co";

const LOAD_OPTIONS = Object.freeze(
  ["backend", "weights", "contextLength", "kvCache", "autotune", "cache", "integrity", "onProgress", "onTensor", "signal", "hubUrl", "headers",
    "token", "network"],
);

/**
 * @param {unknown} given
 * @returns {Omit<LoadOptions, "headers" | "integrity"> & { integrity?: Record<string, string>, headers?: Record<string, string>, engine: import("./protocol.js").EngineLoadOptions }}
 */
export function checkLoadOptions(given) {
  const options = checkNames(given, LOAD_OPTIONS, "load options");
  const {
    backend, weights, contextLength, kvCache, autotune, cache, integrity, onProgress, onTensor, signal, hubUrl, headers, token, network,
  } = options;
  oneOf("backend", backend, ["auto", "webgpu", "cpu"]);
  oneOf("weights", weights, ["f8", "i8", "checkpoint"]);
  if (contextLength !== undefined) checkKind("contextLength", contextLength, "count");
  oneOf("kvCache", kvCache, ["f16", "f8"]);
  if (autotune !== undefined) checkKind("autotune", autotune, "boolean");
  if (autotune === true && backend === "cpu") throw badRequest('autotune: it times graphics adapters, not the backend "cpu": leave out one of them.');
  if (cache !== undefined) checkKind("cache", cache, "boolean");
  if (onProgress !== undefined) checkKind("onProgress", onProgress, "function");
  if (onTensor !== undefined) checkKind("onTensor", onTensor, "function");
  if (signal !== undefined) checkKind("signal", signal, "signal");
  if (hubUrl !== undefined) checkKind("hubUrl", hubUrl, "string");
  checkToken(token);
  checkNetwork(network);
  /** @type {Record<string, unknown>} */
  const engine = {};
  if (backend !== undefined) engine.backend = backend;
  if (weights !== undefined) engine.weights = weights;
  if (contextLength !== undefined) engine.contextLength = contextLength;
  if (kvCache !== undefined) engine.kvCache = kvCache;
  if (autotune !== undefined) engine.autotune = autotune;
  return {
    ...options,
    engine,
    ...(integrity === undefined ? {} : { integrity: hashes(integrity) }),
    ...(headers === undefined ? {} : { headers: plainHeaders(headers) }),
  };
}

/**
 * @param {unknown} given
 * @returns {Record<string, string>}
 */
function hashes(given) {
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw badRequest(`integrity must be an object of file names and their SHA-256, not ${describe(given)}.`);
  }
  const entries = Object.entries(given).map(([file, hash]) => {
    if (!isHash(hash)) throw badRequest(`integrity[${JSON.stringify(file)}] must be a SHA-256: 64 hexadecimal digits, not ${describe(hash)}.`);
    return [file, String(hash).toLowerCase()];
  });
  return Object.fromEntries(entries);
}

/** @param {unknown} given */
export function checkNetwork(given) {
  if (given === undefined) return;
  const numbers = checkNames(given, ["attempts", "backoffMs", "stallMs"], "network");
  for (const [name, value] of Object.entries(numbers)) {
    if (value !== undefined) checkKind(`network.${name}`, value, "count");
  }
}

/**
 * Its value is in no message: those are shown, sent and stored.
 *
 * @param {unknown} token
 */
export function checkToken(token) {
  if (token === undefined || (typeof token === "string" && /^[!-~]+$/.test(token))) return;
  throw badRequest("token must be the text of an access token: letters, digits and signs, no spaces.");
}

/**
 * @param {unknown} given
 * @returns {Record<string, string>}
 */
export function plainHeaders(given) {
  if (given instanceof Headers) return Object.fromEntries(given);
  const prototype = typeof given === "object" && given !== null ? Object.getPrototypeOf(given) : given;
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    throw badRequest(`headers must be an object of names and values, or Headers, not ${describe(given)}.`);
  }
  for (const [name, value] of Object.entries(/** @type {object} */ (given))) {
    // Values may be secrets, and messages go far.
    if (typeof value !== "string") throw badRequest(`headers["${name}"] must be a string.`);
    try {
      new Headers([[name, value]]);
    } catch {
      throw badRequest(`headers: the value of ${describe(name)}, or that name, is not what HTTP allows in a header.`);
    }
  }
  return { .../** @type {Record<string, string>} */ (given) };
}

/**
 * Where a checkpoint lies, and what to call it in responses.
 *
 * @param {unknown} model
 * @param {FetchOptions} options
 * @param {string} pageUrl what relative URLs start from
 * @returns {{ source: import("./protocol.js").PlainSource, name: string }}
 */
function resolvePlain(model, options, pageUrl) {
  if (typeof model === "string") {
    const { token, hubUrl } = options;
    if (!isUrl(model)) return { source: hubSource(model, options, pageUrl), name: model };
    if (token !== undefined) {
      throw badRequest("token: it is sent to the hub alone, for owner/name. What another server needs goes into headers.");
    }
    if (hubUrl !== undefined) throw badRequest("hubUrl: it is where owner/name is looked up; a URL says by itself where the model lies.");
    const { headers, network } = options;
    const base = directoryUrl(model, pageUrl);
    return { source: { kind: "http", base, ...(headers ? { headers } : {}), ...(network ? { network } : {}) }, name: withoutSecrets(model) };
  }
  for (const name of /** @type {const} */ (["headers", "token", "hubUrl", "network"])) {
    if (options[name] !== undefined) throw badRequest(`${name}: for models that are fetched, not for files or folders.`);
  }
  if (isDirectory(model)) return { source: { kind: "directory", handle: model }, name: model.name };
  if (typeof model === "object" && model !== null && Symbol.iterator in model) {
    return { source: { kind: "files", files: filesByName([.../** @type {Iterable<unknown>} */ (model)]) }, name: "files" };
  }
  throw badRequest(`model must be "owner/name", a URL, a directory handle or a list of files, not ${describe(model)}.`);
}

/**
 * Where a model lies, and what to call it in responses.
 *
 * @param {unknown} model
 * @param {FetchOptions} options
 * @param {string} pageUrl what relative URLs start from
 * @returns {{ source: Source, name: string }}
 */
export function resolveModel(model, options, pageUrl) {
  if (typeof model === "object" && model !== null && "recipe" in model) {
    const { recipe, models } = checkNames(model, ["recipe", "models"], "model");
    return { source: mergeSource(recipe, toModels(models), options, pageUrl), name: "merge" };
  }
  return resolvePlain(model, options, pageUrl);
}

/**
 * The same model, to be resolved more than once: lists that may be gone after one reading are copied.
 *
 * @template T
 * @param {T} model
 * @returns {T}
 */
export function lasting(model) {
  if (typeof model !== "object" || model === null) return model;
  if ("recipe" in model) {
    const models = "models" in model ? model.models : undefined;
    return { ...model, models: new Map(toModels(models).map(([name, each]) => [name, lasting(each)])) };
  }
  return Symbol.iterator in model ? /** @type {T} */ ([.../** @type {Iterable<unknown>} */ (model)]) : model;
}

/**
 * Entries of a plain object or a Map.
 *
 * @param {unknown} models
 * @returns {[string, unknown][]}
 */
export function toModels(models) {
  if (models === undefined || models === null) return [];
  if (models instanceof Map) return [...models];
  if (typeof models === "object" && !Array.isArray(models)) return Object.entries(models);
  throw badRequest(`models must be an object or a Map from names in the recipe to models, not ${describe(models)}.`);
}

/**
 * @param {unknown} recipe
 * @param {[string, unknown][]} models
 * @param {FetchOptions} options
 * @param {string} pageUrl
 * @returns {import("./protocol.js").MergeSource}
 */
export function mergeSource(recipe, models, options, pageUrl) {
  if (typeof recipe !== "string") throw badRequest(`recipe must be the text of a mergekit recipe, not ${describe(recipe)}.`);
  const { hubUrl = HUB_URL, headers, token, network } = options;
  const sources = models.map(([name, model]) => {
    // Options are for those of the models that they concern.
    const isFetched = typeof model === "string";
    const onHub = isFetched && !isUrl(model);
    const access = { ...(isFetched ? { headers, network } : {}), ...(onHub ? { hubUrl, token } : {}) };
    return /** @type {const} */ ([name, resolvePlain(model, access, pageUrl).source]);
  });
  return {
    kind: "merge", recipe, models: new Map(sources), hubUrl, pageUrl,
    ...(headers ? { headers } : {}), ...(token ? { token } : {}), ...(network ? { network } : {}),
  };
}

/**
 * A merge with a source for each of the models that its recipe names.
 *
 * @param {import("./protocol.js").MergeSource} source
 * @param {string[]} names
 * @returns {import("./protocol.js").MergeSource}
 */
export function completeModels(source, names) {
  const { models, hubUrl, pageUrl, headers, token, network } = source;
  const unknown = [...models.keys()].find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw badRequest(`models: the recipe names no "${unknown}"; it names ${names.join(", ")}.`);
  }
  // A recipe is somebody's text: an address in it is not sent what the caller means for the hub.
  const sourceOf = (/** @type {string} */ name) => models.get(name)
    ?? resolvePlain(name, isUrl(name) ? { network } : { hubUrl, network, headers, token }, pageUrl).source;
  return { ...source, models: new Map(names.map((name) => [name, sourceOf(name)])) };
}

/** @param {string} model */
function isUrl(model) {
  return model.endsWith("/") || /^(https?:|\/|\.\.?\/)/i.test(model);
}

/**
 * @param {string} model
 * @param {string} pageUrl
 */
function directoryUrl(model, pageUrl) {
  let url;
  try {
    url = new URL(model, pageUrl);
  } catch {
    throw badRequest(`model: ${describe(withoutSecrets(model))} is not a URL.`);
  }
  if (/\.(safetensors|json|gguf|bin)$/i.test(url.pathname)) {
    throw badRequest(`model: ${describe(withoutSecrets(model))} is a file; give the URL of the directory it lies in.`);
  }
  url.hash = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}

/**
 * A URL for messages, responses and lists: what may be a signature or a password is left out.
 *
 * @param {string} url
 */
export function withoutSecrets(url) {
  return withoutQuery(url).replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/@]*@/i, "$1");
}

/**
 * @param {string} model
 * @param {FetchOptions} access
 * @param {string} pageUrl
 * @returns {import("./protocol.js").PlainSource}
 */
function hubSource(model, { hubUrl = HUB_URL, headers, token, network }, pageUrl) {
  const parts = /^([\w.-]+)\/([\w.-]+)(?:@([^\s@]+))?$/.exec(model);
  if (parts === null) {
    throw badRequest(`model: ${describe(withoutSecrets(model))} is neither "owner/name", "owner/name@revision" nor a URL (those start with https:, / or ./, or end with /).`);
  }
  const [, owner, name, given = "main"] = parts;
  const revision = encodeURIComponent(given);
  const url = (/** @type {string} */ path) => new URL(`${hubUrl.replace(/\/+$/, "")}/${path}`, pageUrl).href;
  const sent = token === undefined ? headers : { ...withoutAuthorization(headers), Authorization: `Bearer ${token}` };
  return {
    kind: "http",
    base: url(`${owner}/${name}/resolve/${revision}/`),
    listing: url(`api/models/${owner}/${name}/revision/${revision}`),
    ...(sent ? { headers: sent } : {}),
    ...(network ? { network } : {}),
  };
}

/** @param {Record<string, string>} [headers] */
function withoutAuthorization(headers = {}) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== "authorization"));
}

/**
 * @param {unknown} model
 * @returns {model is FileSystemDirectoryHandle}
 */
function isDirectory(model) {
  return typeof model === "object" && model !== null && "kind" in model && model.kind === "directory" && "getFileHandle" in model;
}

/**
 * Files by their path inside the picked folder, or by name where they were picked one by one.
 *
 * @param {unknown[]} list
 * @returns {Map<string, File>}
 */
function filesByName(list) {
  if (list.length === 0) throw badRequest("model: the list of files is empty.");
  /** @type {Map<string, File>} */
  const files = new Map();
  for (const file of list) {
    if (!(file instanceof Blob) || !("name" in file)) {
      throw badRequest(`model: a list must hold Files only, not ${describe(file)}.`);
    }
    const { webkitRelativePath, name } = /** @type {File} */ (file);
    const path = webkitRelativePath ? webkitRelativePath.split("/").slice(1).join("/") : name;
    if (files.has(path)) throw badRequest(`model: two of the files are named "${path}".`);
    files.set(path, /** @type {File} */ (file));
  }
  return files;
}
