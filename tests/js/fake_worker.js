/** A worker and a wasm module that behave as the real ones do, without a browser. */

import { serve } from "../../www/bise/serve.js";

/** Tokens that the fake model can say. */
export const WORDS = ["There", " was", " once", " a", " king", ".", " He", " was", " old", "."];

const INFO = { architecture: "mistral", contextLength: 512, backend: "webgpu", cache: { state: "stored", note: null }, tuning: { state: "timed", note: "12 measured", key: "fake", choice: [3] } };

/** What the fake module was asked for. */
export class Trace {
  /** @type {unknown[]} */
  loads = [];
  /** The calls that came with a session. @type {any[]} */
  sessions = [];
  /** What sessions were closed with. @type {any[]} */
  closed = [];
  /** @type {any[]} */
  requests = [];
  /** What was to be written. @type {any[]} */
  merges = [];
  /** What was to be timed. @type {any[]} */
  benches = [];
  /** What was to be remembered of tuning. @type {any[]} */
  tunings = [];
  running = 0;
  mostRunning = 0;
  freed = 0;
  aborted = 0;
}

/** A macrotask, as a GPU readback is. */
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** @typedef {{ failLoad?: unknown, failInit?: unknown, failAt?: number, failure?: unknown, slowLoad?: boolean }} Faults */

/**
 * @param {Trace} trace
 * @param {Faults} faults
 * @returns {any} a module of the real one's shape
 */
export function fakeWasm(trace, faults = {}) {
  const failWith = (/** @type {string} */ code, /** @type {string} */ message) => Object.assign(new Error(message), { code });
  return {
    default: async () => {
      if (faults.failInit) throw faults.failInit;
    },
    wasm_memory: () => 1234,
    recipeModels: (/** @type {string} */ recipe) => [...recipe.matchAll(/model: ([^,}]+)/g)].map(([, name]) => name),
    merge: async (/** @type {any[]} */ ...args) => {
      const [source, options, , onProgress, , signal] = args;
      trace.merges.push({ source, options });
      onProgress({ file: "model.safetensors", done: 1, total: 2 });
      do {
        await turn();
        if (signal.aborted) {
          trace.aborted += 1;
          throw failWith("aborted", "stopped");
        }
      } while (faults.slowLoad);
      return { tensors: [], warnings: ["odd"], totals: {} };
    },
    WebEngine: class {
      /** @param {any[]} args */
      static async load(...args) {
        const [source, options, onProgress, , signal] = args;
        trace.loads.push({ source, options });
        onProgress({ phase: "weights", done: 1, total: 2 });
        do {
          await turn();
          if (signal.aborted) {
            trace.aborted += 1;
            throw failWith("aborted", "stopped");
          }
        } while (faults.slowLoad);
        if (faults.failLoad) throw faults.failLoad;
        return Object.assign(new this(), { adapter: options.gpu?.told });
      }

      info() {
        return { ...INFO, adapter: /** @type {any} */ (this).adapter };
      }

      mergeReport() {
        return null;
      }

      async replaceWeights() {
        if (faults.failure) throw faults.failure;
        return { tensors: [], warnings: [], totals: {} };
      }

      /** @param {any[]} args */
      async generate(...args) {
        const [request, onDelta, signal] = args;
        trace.requests.push(request);
        trace.running += 1;
        trace.mostRunning = Math.max(trace.mostRunning, trace.running);
        try {
          const ids = [];
          const limit = request.max_tokens ?? WORDS.length;
          for (let i = 0; i < limit; i += 1) {
            await turn();
            if (signal.aborted) {
              trace.aborted += 1;
              throw failWith("aborted", "stopped");
            }
            if (faults.failAt === i) throw faults.failure;
            ids.push(i);
            onDelta({ text: WORDS[i % WORDS.length], id: i, prompt_tokens: 3, logprobs: null });
          }
          const text = ids.map((i) => WORDS[i % WORDS.length]).join("");
          const timings = { prompt_tokens: 3, cached_tokens: 0, prompt_ms: 1, completion_tokens: ids.length, completion_ms: 2, tokens_per_second: 3 };
          return { prompt_ids: [1, 2, 3], ids, text, finish_reason: "length", logprobs: null, timings };
        } finally {
          trace.running -= 1;
        }
      }

      async benchLogits() {
        return new Float32Array([1, 2]);
      }

      /** @param {any[]} args */
      async bench(...args) {
        const [expected, rounds, longest, quick, onProgress, signal] = args;
        trace.benches.push({ expected: [...expected], rounds, longest, quick });
        onProgress(["comparing logits", 0]);
        onProgress(["a prompt of", 16]);
        await turn();
        if (signal.aborted) throw failWith("aborted", "stopped");
        if (faults.failure) throw faults.failure;
        return { info: { adapter: /** @type {any} */ (this).adapter }, deviation: 1e-4, figures: [], notes: [] };
      }

      free() {
        if (trace.running > 0) throw new Error("freed while running");
        trace.freed += 1;
      }
    },
  };
}

/** Messages are cloned and arrive in a later task, as between real threads. */
export class FakeWorker extends EventTarget {
  terminated = false;
  /** Messages that went to the worker. @type {unknown[]} */
  sent = [];
  /** @type {((event: { data: any }) => void)[]} */
  #listeners = [];
  onmessage = null;
  onmessageerror = null;
  onerror = null;

  /**
   * @param {any} wasm
   * @param {() => void} [check]
   * @param {Trace} [trace]
   */
  constructor(wasm, check = () => {}, trace = new Trace()) {
    super();
    serve({
      postMessage: (message) => this.emit(message),
      addEventListener: (_type, listener) => this.#listeners.push(listener),
    }, wasm, {
      check,
      adapter: async () => ({ name: "fake adapter", fallback: false, identity: "fake" }),
      readTunings: async () => '{"fake":[1,2]}',
      noteTuning: async (tuning) => void trace.tunings.push(tuning),
      openKept: async () => null,
      openSession: async (call, hooks) => {
        trace.sessions.push({ name: call.name, cache: call.cache, integrity: call.integrity });
        if (call.name === "owner/busy") hooks.onWait("another tab");
        return { source: call.source, note: call.name === "owner/note" ? "no room" : null, close: async (info) => void trace.closed.push(info) };
      },
    });
  }

  /** @param {unknown} message */
  emit(message) {
    const data = structuredClone(message);
    setImmediate(() => {
      if (!this.terminated) this.dispatchEvent(Object.assign(new Event("message"), { data }));
    });
  }

  /** @param {unknown} message */
  postMessage(message) {
    const data = structuredClone(message);
    this.sent.push(data);
    setImmediate(() => {
      if (!this.terminated) for (const listener of this.#listeners) listener({ data });
    });
  }

  terminate() {
    this.terminated = true;
  }
}
