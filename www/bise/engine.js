/** The engine, as a page sees it. */

import { Bridge } from "./bridge.js";
import { ChatCompletions, Completions } from "./completions.js";
import { BiseError, badRequest } from "./errors.js";
import { checkLoadOptions, lasting, resolveModel } from "./model.js";
import { checkNames } from "./options.js";
import { Queue, orAbort } from "./queue.js";
import { saveOrigin } from "./save.js";
import { spawnWorker } from "./spawn.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./protocol.js").Info} Info */

const REPLACE_OPTIONS = Object.freeze(["onProgress", "onTensor", "signal", "hubUrl", "headers", "token", "network"]);

const DISPOSED = "This engine was disposed: load a new one.";

/** Whether the device of an engine that was left the choice was lost, and no load has fallen back on the processor since. */
let gpuWasLost = false;

/** A model in a worker of its own, on the GPU or on the processor. Made by {@link Engine.load}. */
export class Engine {
  #bridge;
  #info;
  #merged;
  #origin;
  #spawn;
  #queue = new Queue();

  /**
   * Loads a model: a hub id (`owner/name` or `owner/name@revision`), the URL of a directory, a
   * `FileSystemDirectoryHandle`, a list of `File`s, or `{ recipe, models }`, which is merged straight into the
   * engine's weights.
   *
   * @param {Model} model
   * @param {LoadOptions} [options]
   * @returns {Promise<Engine>}
   * @throws {BiseError}
   */
  static async load(model, options) {
    return loadWith(model, options, spawnWorker);
  }

  /**
   * Use {@link Engine.load}.
   *
   * @param {Bridge} bridge
   * @param {import("./protocol.js").Loaded} loaded
   * @param {string} name
   * @param {import("./save.js").Origin} origin
   * @param {() => Worker} spawn
   */
  constructor(bridge, { info, merged }, name, origin, spawn) {
    this.#bridge = bridge;
    this.#origin = origin;
    this.#spawn = spawn;
    this.#info = info;
    this.#merged = merged;
    /** @type {import("./completions.js").Runner} */
    const runner = {
      name,
      assertUsable: () => {
        if (bridge.closed) throw bridge.closed;
      },
      generate: (request, onDelta, signal) => this.#queue.run(() => bridge.call({ type: "generate", request }, {
        onEvent: (event) => {
          if (event.type === "delta" && !signal?.aborted) onDelta(event.delta);
        },
        ...(signal ? { signal } : {}),
      }), signal),
    };
    /** `chat.completions.create(...)`, as in OpenAI's client. */
    this.chat = Object.freeze({ completions: new ChatCompletions(runner) });
    /** `completions.create(...)`, as in OpenAI's client. */
    this.completions = new Completions(runner);
  }

  /** What is loaded, where it runs, and the memory it takes. */
  get info() {
    return this.#info;
  }

  /** What the merge did that made these weights, or null. */
  get mergeReport() {
    return this.#merged;
  }

  /**
   * Merges another recipe into this engine's weights: nothing is allocated or compiled again. The result must have
   * the shapes of what is loaded. Waits for its turn behind running requests; conversations start anew.
   *
   * @param {{ recipe: string, models?: import("./model.js").Models }} model
   * @param {Pick<LoadOptions, "onProgress" | "onTensor" | "signal" | "hubUrl" | "headers" | "token" | "network">} [options]
   * @returns {Promise<import("./protocol.js").MergeReport>}
   * @throws {BiseError} after which, if it came half-way, requests are refused until a merge has succeeded
   */
  async replaceWeights(model, options) {
    const known = checkNames(options, REPLACE_OPTIONS, "options");
    const { onProgress, onTensor, signal, ...rest } = checkLoadOptions(known);
    const kept = lasting(model);
    const { source } = resolveModel(kept, rest, globalThis.document?.baseURI ?? globalThis.location.href);
    if (source.kind !== "merge") throw badRequest("replaceWeights takes { recipe, models }.");
    const replace = () => this.#bridge.call({ type: "replace", source }, {
      onEvent: (event) => {
        if (signal?.aborted) return;
        if (event.type === "progress") onProgress?.(event.progress);
        if (event.type === "tensor") onTensor?.(event.tensor);
      },
      ...(signal ? { signal } : {}),
    });
    this.#merged = await this.#queue.run(replace, signal);
    this.#origin = { model: kept, hubUrl: rest.hubUrl, network: rest.network };
    return /** @type {import("./protocol.js").MergeReport} */ (this.#merged);
  }

  /**
   * Saves what is loaded as an FP8 checkpoint, as {@link import("./save.js").save} does. Nothing is read back from the
   * GPU: the model is read once more from where it came (or merged once more, by the recipe that was loaded last), over
   * the network where it lies there, with this engine's `hubUrl` and `network`. `token` and `headers` are not
   * remembered: pass them again where they are needed. Requests go on meanwhile.
   *
   * @param {import("./save.js").SaveOptions} options
   * @returns {Promise<import("./protocol.js").MergeReport>}
   * @throws {BiseError}
   */
  save(options) {
    return saveOrigin(this.#origin, options, this.#spawn);
  }

  /**
   * Bytes of host memory that the engine's wasm module holds; memory on the device is in {@link info}.
   *
   * @returns {Promise<number>}
   */
  hostMemory() {
    return this.#bridge.call({ type: "memory" });
  }

  /** Ends what is running, frees its memory and ends the worker. */
  async dispose() {
    await this.#bridge.close(badRequest(DISPOSED));
  }
}

/** @param {LoadOptions["backend"]} backend */
const isFree = (backend = "auto") => backend === "auto";

/**
 * What a load, or an inspection of one, is told where the device before it was lost.
 *
 * @param {LoadOptions["backend"]} backend
 */
export function afterLoss(backend) {
  return isFree(backend) && gpuWasLost ? { lost: true } : {};
}

/**
 * {@link Engine.load} with a given way to start the worker.
 *
 * @param {Model} given
 * @param {LoadOptions | undefined} options
 * @param {() => Worker} spawn
 * @returns {Promise<Engine>}
 */
export async function loadWith(given, options, spawn) {
  const model = lasting(given);
  const { engine, cache, integrity = null, onProgress, onTensor, signal, ...rest } = checkLoadOptions(options);
  const pageUrl = globalThis.document?.baseURI ?? globalThis.location.href;
  const { source, name } = resolveModel(model, rest, pageUrl);
  if (source.kind === "merge" && integrity !== null) throw badRequest("integrity: it is for one model, not for a merge.");
  if (source.kind !== "merge" && onTensor) throw badRequest("onTensor: it hears what a merge does; this is one model.");
  if (source.kind !== "http" && cache) throw badRequest("cache: only what is fetched is kept for the next time, not files, folders or merges.");
  if (signal?.aborted) throw new BiseError("aborted", "The load was aborted.", { cause: signal.reason });
  const fallBack = afterLoss(rest.backend);
  const bridge = new Bridge(spawn(), () => {
    if (isFree(rest.backend)) gpuWasLost = true;
  });
  const loading = bridge.call({ type: "load", source, options: { ...engine, ...fallBack }, name, cache: cache ?? true, integrity }, {
    onEvent: (event) => {
      if (event.type === "keeping") keepForGood();
      if (signal?.aborted) return;
      if (event.type === "progress") onProgress?.(event.progress);
      if (event.type === "tensor") onTensor?.(event.tensor);
    },
    ...(signal ? { signal } : {}),
  });
  try {
    const loaded = await (signal ? orAbort(loading, signal, "The load") : loading);
    if (fallBack.lost) gpuWasLost = false;
    return new Engine(bridge, loaded, name, { model, hubUrl: rest.hubUrl, network: rest.network }, spawn);
  } catch (thrown) {
    // Not waited for: an abort takes effect at once, and the worker cleans up behind it.
    void bridge.close(badRequest(DISPOSED));
    throw thrown;
  }
}

/**
 * Asks the browser not to evict what is kept when space runs short. Whatever it answers, the model is kept as long as
 * it pleases.
 */
function keepForGood() {
  void navigator.storage.persist?.().catch(() => {});
}
