/** How fast this browser's adapter runs a model, beside what the same adapter can do at most. */

import { Bridge } from "./bridge.js";
import { BiseError, badRequest } from "./errors.js";
import { checkLoadOptions, lasting, resolveModel } from "./model.js";
import { checkKind, checkNames } from "./options.js";
import { spawnBenchWorker } from "./spawn.js";

/** @typedef {import("./protocol.js").BenchReport} BenchReport */

/**
 * @typedef {object} Own
 * @property {boolean} [quick] fewer kernels, shorter prompts and samples
 * @property {number} [rounds] how often everything is timed; 3
 * @property {number} [longest] longest prompt and context that are timed, tokens; 2048
 * @property {(what: string) => void} [onProgress] hears what is being done
 */

/** @typedef {Own & { weights?: "f8" | "checkpoint" } & Pick<import("./model.js").LoadOptions, "kvCache" | "signal" | "hubUrl" | "headers" | "token" | "network">} BenchOptions */

const OPTIONS = Object.freeze(["quick", "rounds", "longest", "onProgress", "weights", "kvCache", "signal", "hubUrl", "headers", "token", "network"]);

/**
 * Loads a model twice, each time in a worker of its own: on the CPU, for the logits that are the reference, then on
 * WebGPU, where the same logits are asked for before anything is timed. The model must fit the 4 GiB that WebAssembly
 * has. Nothing is kept in the browser.
 *
 * @param {import("./model.js").Model} model
 * @param {BenchOptions} [options]
 * @returns {Promise<BenchReport>}
 * @throws {BiseError} `integrity` where the adapter computes something else
 */
export async function bench(model, options) {
  return benchWith(model, options, spawnBenchWorker);
}

/**
 * {@link bench} with a given way to start the workers.
 *
 * @param {import("./model.js").Model} given
 * @param {BenchOptions | undefined} options
 * @param {() => Worker} spawn
 * @returns {Promise<BenchReport>}
 */
export async function benchWith(given, options, spawn) {
  const model = lasting(given);
  const { quick = false, rounds = 3, longest = 2048, onProgress, ...others } = checkNames(options, OPTIONS, "bench options");
  checkKind("quick", quick, "boolean");
  checkKind("rounds", rounds, "count");
  checkKind("longest", longest, "count");
  if (onProgress !== undefined) checkKind("onProgress", onProgress, "function");
  const say = /** @type {(what: string) => void} */ (onProgress ?? (() => {}));
  const { engine, signal, ...rest } = checkLoadOptions(others);
  if (engine.weights === "i8") {
    throw badRequest('weights: "i8" is a form for the processor, and the bench measures WebGPU. Use "f8" or "checkpoint", or leave it out.');
  }
  const { source, name } = resolveModel(model, rest, globalThis.document?.baseURI ?? globalThis.location.href);
  const aborted = () => {
    if (signal?.aborted) throw new BiseError("aborted", "The bench was aborted.", { cause: signal.reason });
  };

  /**
   * @template T
   * @param {"cpu" | "webgpu"} backend
   * @param {string} what
   * @param {(bridge: Bridge) => Promise<T>} use
   */
  const loaded = async (backend, what, use) => {
    aborted();
    say(what);
    const bridge = new Bridge(spawn());
    try {
      // The processor's usual form of weights would be another than that of WebGPU.
      const load = { type: /** @type {const} */ ("load"), source, options: { weights: /** @type {const} */ ("f8"), ...engine, backend }, name, cache: false, integrity: null };
      await bridge.call(load, signal ? { signal } : {});
      aborted();
      const value = await use(bridge);
      aborted();
      return value;
    } finally {
      // Its memory is to be free before anything is timed.
      await bridge.close(badRequest("This bench has ended."));
    }
  };

  const expected = await loaded("cpu", "loading on the processor", (bridge) => bridge.call({ type: "logits" }));
  const call = /** @type {import("./protocol.js").BenchCall} */ ({ type: "bench", expected, rounds, longest, quick });
  return loaded("webgpu", "loading on the adapter", (bridge) => bridge.call(call, {
    onEvent: (event) => {
      if (event.type === "benching" && !signal?.aborted) say(event.what);
    },
    ...(signal ? { signal } : {}),
  }));
}
