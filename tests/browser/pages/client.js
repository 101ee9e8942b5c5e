// The client package on an otherwise empty page, as `globalThis.bise`, with what tests keep needing. Engines run on
// WebGPU, or on the backend that the page's address names (`?backend=auto`), unless a load says otherwise: left the
// choice, they would all take the processor, since the adapters of the tests are software.

const path = "/pkg/index.js"; // not a literal: the type checker knows no such file
const client = await import(path);
const backend = new URLSearchParams(location.search).get("backend") ?? "webgpu";

/** The client's engine, on the page's backend. */
const Engine = {
  /** @param {unknown} model @param {any} options */
  async load(model, options) {
    const isPlain = options === undefined || (typeof options === "object" && options !== null);
    const given = isPlain ? { backend, ...options } : options;
    const engine = await client.Engine.load(model, given);
    if (given.backend !== "auto" && engine.info.backend !== given.backend) {
      throw new Error(`this test asked for ${given.backend}, and runs on ${engine.info.backend}`);
    }
    return engine;
  },
};

/**
 * How a promise ended: its value or its error, and after how many milliseconds.
 * @param {Promise<unknown>} promise
 */
async function outcome(promise) {
  const began = performance.now();
  /** @type {{ value?: any, code?: string, message?: string, name?: string }} */
  let end;
  try {
    end = { value: await promise };
  } catch (thrown) {
    const { name, code, message } = /** @type {any} */ (thrown);
    end = { name, code, message: message ?? String(thrown) };
  }
  return { ...end, ms: performance.now() - began };
}

/**
 * A short greedy completion: proof that an engine works.
 * @param {any} engine
 */
async function proof(engine) {
  const { choices } = await engine.completions.create({ prompt: "The old man opened the door and", temperature: 0, max_tokens: 6, ignore_eos: true });
  return choices[0].text;
}

const { Worker } = globalThis;

/**
 * From here on engines start with another script, or with their own again.
 * @param {string | null} other
 */
function useWorker(other) {
  globalThis.Worker = class extends Worker {
    /** @param {string | URL} script @param {WorkerOptions} [options] */
    constructor(script, options) {
      super(other ?? script, options);
    }
  };
}

Object.assign(globalThis, { useWorker, bise: { ...client, Engine, outcome, proof } });
