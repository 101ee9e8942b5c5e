/**
 * The worker's side of the protocol, over any port and any module shaped like ours: tests run it
 * without a browser.
 */

import { BiseError, toPlain } from "./errors.js";
import { completeModels } from "./model.js";
import { directorySink, portSink } from "./sink.js";

/** @typedef {import("./protocol.js").ToWorker} ToWorker */
/** @typedef {import("./protocol.js").FromWorker} FromWorker */
/** @typedef {typeof import("./wasm/bise.js") | typeof import("./wasm-bench/bise.js")} Wasm */
/** @typedef {import("./wasm-bench/bise.js").WebEngine} BenchEngine */

/**
 * @typedef {object} Port
 * @property {(message: FromWorker) => void} postMessage
 * @property {(type: "message", listener: (event: { data: ToWorker }) => void) => void} addEventListener
 */

/**
 * @typedef {object} Platform
 * @property {() => void} check throws what WebGPU is missing here
 * @property {typeof import("./session.js").openSession} openSession
 * @property {typeof import("./session.js").openKept} openKept
 * @property {() => Promise<import("./protocol.js").Told>} adapter what the browser tells of its adapter
 * @property {typeof import("./tuning.js").readTunings} readTunings
 * @property {typeof import("./tuning.js").noteTuning} noteTuning
 */

/**
 * Answers calls on `port` for as long as it lives.
 *
 * @param {Port} port
 * @param {Wasm} wasm
 * @param {Platform} platform
 */
export function serve(port, wasm, platform) {
  /** @type {import("./wasm/bise.js").WebEngine | BenchEngine | null} */
  let engine = null;
  /** Calls under way. @type {Map<number, { controller: AbortController, ended: Promise<void> }>} */
  const running = new Map();

  /**
   * @param {Extract<ToWorker, { type: "load" }>} call
   * @param {Promise<object>} gpu
   * @param {AbortSignal} signal
   * @returns {Promise<import("./protocol.js").Loaded>}
   */
  async function load(call, gpu, signal) {
    const { id } = call;
    const report = (/** @type {import("./protocol.js").Progress} */ progress) => port.postMessage({ type: "progress", id, progress });
    const session = await platform.openSession(call, {
      onWait: (note) => report({ phase: "config", done: 0, total: 1, note }),
      onFirst: () => port.postMessage({ type: "keeping", id }),
      signal,
    });
    const { source, note } = session;
    /** @type {import("./protocol.js").Info | null} */
    let found = null;
    try {
      engine = await wasm.WebEngine.load(
        source.kind === "merge" ? completeModels(source, wasm.recipeModels(source.recipe)) : source,
        { ...call.options, ...await gpu },
        (progress) => report(note === null ? progress : { ...progress, note }),
        (tensor) => port.postMessage({ type: "tensor", id, tensor }),
        signal,
      );
      found = engine.info();
    } finally {
      await session.close(found);
    }
    let info = /** @type {import("./protocol.js").Info} */ (found);
    await platform.noteTuning(info.tuning);
    if (note !== null) info = { ...info, cache: { state: "off", note } };
    return { info, merged: engine.mergeReport() };
  }

  /**
   * What the engine has to know of the adapter. Asked for while the wasm module is still on its way.
   *
   * @param {import("./protocol.js").EngineLoadOptions} options
   * @returns {Promise<{ gpu?: { told: import("./protocol.js").Told }, tunings?: string }>}
   */
  async function askAdapter({ backend, autotune }) {
    if (backend === "cpu") return {};
    const [told, tunings] = await Promise.all([platform.adapter(), autotune === false ? "" : platform.readTunings()]);
    return { gpu: { told }, tunings };
  }

  /**
   * @param {Extract<ToWorker, { id: number }>} message
   * @param {AbortSignal} signal
   * @returns {Promise<unknown>}
   */
  async function answer(message, signal) {
    const { id } = message;
    switch (message.type) {
      case "load": {
        if (message.options.backend === "webgpu") platform.check();
        const gpu = askAdapter(message.options);
        await start(wasm);
        return load(message, gpu, signal);
      }
      case "replace": {
        if (engine === null) throw new BiseError("bad-request", "No model is loaded.");
        const { source } = message;
        return engine.replaceWeights(
          completeModels(source, wasm.recipeModels(source.recipe)),
          (progress) => port.postMessage({ type: "progress", id, progress }),
          (tensor) => port.postMessage({ type: "tensor", id, tensor }),
          signal,
        );
      }
      case "merge": {
        await start(wasm);
        const { source, output, options } = message;
        const sink = output instanceof MessagePort ? portSink(output) : directorySink(output);
        try {
          return await wasm.merge(
            source.kind === "merge" ? completeModels(source, wasm.recipeModels(source.recipe)) : source,
            { backend: options.backend, f8: options.f8, name: options.name, ...(options.shardBytes === null ? {} : { shardBytes: options.shardBytes }) },
            sink,
            (progress) => port.postMessage({ type: "merging", id, progress }),
            (tensor) => port.postMessage({ type: "tensor", id, tensor }),
            signal,
          );
        } catch (thrown) {
          // Whatever happens to the output now, why the merge ended is what counts.
          await sink.abort().catch(() => {});
          throw thrown;
        }
      }
      case "generate": {
        if (engine === null) throw new BiseError("bad-request", "No model is loaded.");
        return engine.generate(
          message.request,
          (delta) => port.postMessage({ type: "delta", id, delta }),
          signal,
        );
      }
      case "logits": {
        return withBench(engine).benchLogits();
      }
      case "bench": {
        const { expected, rounds, longest, quick } = message;
        const report = await withBench(engine).bench(expected, rounds, longest, quick, (/** @type {[string, number]} */ [what, at]) => {
          port.postMessage({ type: "benching", id, what: at > 0 ? `${what} ${at}` : what });
        }, signal);
        return { ...report, hostBytes: wasm.wasm_memory() };
      }
      case "inspect": {
        const gpu = askAdapter({ autotune: false }); // on the processor, too: it is told of
        await start(wasm);
        const session = await platform.openKept(message, signal);
        try {
          return await wasm.inspect(session?.source ?? message.source, { ...message.options, ...await gpu }, signal);
        } finally {
          session?.close();
        }
      }
      case "outline":
        await start(wasm);
        return wasm.recipeOutline(message.recipe);
      case "memory":
        await start(wasm);
        return wasm.wasm_memory();
      case "dispose": {
        const others = [...running].filter(([other]) => other !== id).map(([, call]) => call);
        for (const { controller } of others) controller.abort();
        await Promise.all(others.map(({ ended }) => ended));
        engine?.free();
        engine = null;
        return null;
      }
      default:
        throw new BiseError("bad-request", `Unknown message "${/** @type {{ type: string }} */ (message).type}".`);
    }
  }

  port.addEventListener("message", ({ data }) => {
    if (data.type === "abort") {
      running.get(data.id)?.controller.abort();
      return;
    }
    const { id } = data;
    const controller = new AbortController();
    const ended = answer(data, controller.signal).then(
      (value) => port.postMessage({ type: "done", id, value }),
      // What has no code is a trap or a fault of ours: either way this engine is not to be trusted.
      (thrown) => port.postMessage({ type: "error", id, error: toPlain(thrown, "device-lost"), gpuLost: thrown?.code === "device-lost" }),
    ).finally(() => running.delete(id));
    running.set(id, { controller, ended });
  });
}

/**
 * @param {import("./wasm/bise.js").WebEngine | BenchEngine | null} engine
 * @returns {BenchEngine}
 */
function withBench(engine) {
  if (engine === null) throw new BiseError("bad-request", "No model is loaded.");
  if (!("bench" in engine)) throw new BiseError("bad-request", "This worker's wasm module has no bench: bench_worker.js has one.");
  return engine;
}

/** The least module with what the engine's takes: a function that makes a vector, and a table of references to objects. */
const SIMD_MODULE = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 4, 4, 1, 0x6f, 0, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11);

/** @param {Wasm} wasm */
async function start(wasm) {
  if (!WebAssembly.validate(SIMD_MODULE)) {
    throw new BiseError("unsupported-browser", "This browser's WebAssembly has no SIMD (or not on this processor), which bise computes with. Take Chrome or Edge 96, Firefox 114, Safari 16.4, or newer.");
  }
  const what = "The engine's wasm module could not be loaded";
  try {
    await wasm.default();
  } catch (thrown) {
    const { message } = toPlain(thrown, "network");
    throw new BiseError("network", `${what}: ${message}. Check that the folders wasm and wasm-bench lie beside the package's scripts.`);
  }
}
