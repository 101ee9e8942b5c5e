/** The engine, as a page sees it. */

import { Bridge } from "./bridge.js";
import { ChatCompletions, Completions } from "./completions.js";
import { BiseError, badRequest } from "./errors.js";
import { checkLoadOptions, resolveModel } from "./model.js";
import { Queue, orAbort } from "./queue.js";
import { spawnWorker } from "./spawn.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./protocol.js").Info} Info */

const DISPOSED = "This engine was disposed: load a new one.";

/** A model on the GPU, in a worker of its own. Made by {@link Engine.load}. */
export class Engine {
  #bridge;
  #info;
  #queue = new Queue();

  /**
   * Loads a model: a hub id (`owner/name` or `owner/name@revision`), the URL of a directory, a
   * `FileSystemDirectoryHandle`, or a list of `File`s.
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
   * @param {Info} info
   * @param {string} name
   */
  constructor(bridge, info, name) {
    this.#bridge = bridge;
    this.#info = info;
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

  /**
   * Bytes of host memory that the engine's wasm module holds; memory on the device is in {@link info}.
   *
   * @returns {Promise<number>}
   */
  hostMemory() {
    return this.#bridge.call({ type: "memory" });
  }

  /** Ends what is running, frees the GPU's memory and ends the worker. */
  async dispose() {
    await this.#bridge.close(badRequest(DISPOSED));
  }
}

/**
 * {@link Engine.load} with a given way to start the worker.
 *
 * @param {Model} model
 * @param {LoadOptions | undefined} options
 * @param {() => Worker} spawn
 * @returns {Promise<Engine>}
 */
export async function loadWith(model, options, spawn) {
  const { engine, onProgress, signal, ...rest } = checkLoadOptions(options);
  const pageUrl = globalThis.document?.baseURI ?? globalThis.location.href;
  const { source, name } = resolveModel(model, rest, pageUrl);
  if (signal?.aborted) throw new BiseError("aborted", "The load was aborted.", { cause: signal.reason });
  const bridge = new Bridge(spawn());
  const loading = bridge.call({ type: "load", source, options: engine }, {
    onEvent: (event) => {
      if (event.type === "progress" && !signal?.aborted) onProgress?.(event.progress);
    },
    ...(signal ? { signal } : {}),
  });
  try {
    const info = await (signal ? orAbort(loading, signal, "The load") : loading);
    return new Engine(bridge, info, name);
  } catch (thrown) {
    // Not waited for: an abort takes effect at once, and the worker cleans up behind it.
    void bridge.close(badRequest(DISPOSED));
    throw thrown;
  }
}
