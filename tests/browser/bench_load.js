// How fast weights reach the device in Chromium: `node tests/browser/bench_load.js TARGET_DIR [ROUNDS]`. An FP8
// checkpoint of 0.7 GB from a server on this machine, loaded by the engine and, in the same
// page, by a bare loop of fetch and writeBuffer. Prints both, and the memory that the engine took; ends
// with 1 below the share that it must reach, or beyond the memory that it may take.

import { createHash, randomFillSync } from "node:crypto";
import { closeSync, createReadStream, existsSync, mkdirSync, openSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./launch.js";
import { fromTop } from "./paths.js";
import { startServe } from "./serve.js";

const MIB = 2 ** 20;
const LEAST_SHARE = 0.8;
const MOST_MEMORY = 96 * MIB;
const ROUNDS = Number(process.argv[3] ?? 5);
/** How often what checking and keeping cost is measured. */
const COST_ROUNDS = 3;
const FILE = "model.safetensors";

const CONFIG = {
  architectures: ["MistralForCausalLM"], model_type: "mistral", hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 3,
  num_attention_heads: 32, num_key_value_heads: 8, vocab_size: 4000, max_position_embeddings: 4096, tie_word_embeddings: false,
  rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu", torch_dtype: "bfloat16", sliding_window: null,
  quantization_config: {
    quant_method: "compressed-tensors", format: "naive-quantized", ignore: ["lm_head"],
    config_groups: { group_0: { targets: ["Linear"], weights: { num_bits: 8, type: "float", strategy: "channel", symmetric: true, dynamic: false } } },
  },
};

/** @typedef {{ name: string, dtype: "F8_E4M3" | "BF16", shape: number[], begin: number, end: number }} Tensor */

/** The tensors of that config as compressed-tensors stores them. */
function tensorsOf() {
  const { hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, num_key_value_heads: kvHeads, num_attention_heads: heads, vocab_size: vocab } = CONFIG;
  const kv = (hidden / heads) * kvHeads;
  /** @type {Tensor[]} */
  const tensors = [];
  let at = 0;
  const add = (/** @type {string} */ name, /** @type {Tensor["dtype"]} */ dtype, /** @type {number[]} */ ...shape) => {
    const bytes = shape.reduce((size, each) => size * each, dtype === "BF16" ? 2 : 1);
    tensors.push({ name, dtype, shape, begin: at, end: at += bytes });
  };
  const linear = (/** @type {string} */ name, /** @type {number} */ rows, /** @type {number} */ cols) => {
    add(`${name}.weight`, "F8_E4M3", rows, cols);
    add(`${name}.weight_scale`, "BF16", rows, 1);
  };
  add("model.embed_tokens.weight", "BF16", vocab, hidden);
  for (let layer = 0; layer < layers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    add(`${prefix}.input_layernorm.weight`, "BF16", hidden);
    linear(`${prefix}.self_attn.q_proj`, hidden, hidden);
    linear(`${prefix}.self_attn.k_proj`, kv, hidden);
    linear(`${prefix}.self_attn.v_proj`, kv, hidden);
    linear(`${prefix}.self_attn.o_proj`, hidden, hidden);
    add(`${prefix}.post_attention_layernorm.weight`, "BF16", hidden);
    linear(`${prefix}.mlp.gate_proj`, inner, hidden);
    linear(`${prefix}.mlp.up_proj`, inner, hidden);
    linear(`${prefix}.mlp.down_proj`, hidden, inner);
  }
  add("model.norm.weight", "BF16", hidden);
  add("lm_head.weight", "BF16", vocab, hidden);
  return tensors;
}

/** The file's head: length and header. @param {Tensor[]} tensors */
function headOf(tensors) {
  const entries = tensors.map(({ name, dtype, shape, begin, end }) => [name, { dtype, shape, data_offsets: [begin, end] }]);
  const json = JSON.stringify(Object.fromEntries(entries));
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text]);
}

/** Random FP8 weights that are numbers, and small BF16 values. @param {string} folder */
function writeCheckpoint(folder) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(CONFIG));
  if (existsSync(join(folder, FILE))) return;
  const noise = randomFillSync(Buffer.alloc(MIB)).map((byte) => ((byte & 0x7f) === 0x7f ? byte ^ 1 : byte));
  const small = Buffer.alloc(MIB);
  for (let i = 0; i < small.length; i += 2) small.writeUInt16LE(0x3c00 | (noise[i] ?? 0), i);
  const partial = join(folder, "partial");
  const file = openSync(partial, "w");
  const tensors = tensorsOf();
  writeSync(file, headOf(tensors));
  for (const { dtype, begin, end } of tensors) {
    for (let at = begin; at < end; at += MIB) writeSync(file, dtype === "BF16" ? small : noise, 0, Math.min(MIB, end - at));
  }
  closeSync(file);
  renameSync(partial, join(folder, FILE));
}

/**
 * One load by the engine. The first half of the bytes is left out here and with the bare loop, and the wait for shaders here: the device compiles
 * shaders meanwhile, on an adapter in software with the same processor. Unless asked for, nothing is kept, nor hashed.
 * @param {import("puppeteer-core").Page} page
 * @param {object} [options]
 */
function engineLoad(page, options = {}) {
  return page.evaluate(async (options) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const began = performance.now();
    const marks = { begin: 0, end: 0, bytes: 0, events: 0, compiling: 0, compiled: 0 };
    const onProgress = (/** @type {any} */ { phase, done, total }) => {
      marks.events += 1;
      if (phase === "shaders") {
        marks.compiled = performance.now();
        marks.compiling ||= marks.compiled;
      }
      if (phase !== "weights") return;
      if (done >= total / 2 && marks.begin === 0) Object.assign(marks, { begin: performance.now(), bytes: -done });
      if (done === total) marks.bytes += total;
    };
    const engine = await Engine.load("/model/", { contextLength: 64, onProgress, cache: false, ...options });
    // Ready: the device has taken all of it, which is what the bare loop waits for.
    marks.end = performance.now();
    const allMs = performance.now() - began;
    const hostMemory = await engine.hostMemory();
    await engine.dispose();
    return { bytes: marks.bytes, ms: marks.end - marks.begin - (marks.compiled - marks.compiling), allMs, hostMemory, events: marks.events };
  }, options);
}

/**
 * The same bytes by the bare loop.
 * @param {import("puppeteer-core").Page} page
 * @param {object} job
 */
function bareLoad(page, job) {
  return page.evaluate(async (job) => {
    const worker = new Worker("/pages/bare-load-worker.js", { type: "module" });
    const { value, error } = await new Promise((resolve, reject) => {
      worker.addEventListener("message", ({ data }) => resolve(data));
      worker.addEventListener("error", (event) => reject(new Error(event.message)));
      worker.postMessage(job);
    });
    worker.terminate();
    if (error) throw new Error(error);
    return /** @type {{ bytes: number, ms: number }} */ (value);
  }, job);
}

/**
 * Watches the JavaScript memory of a page and its workers: objects, and buffers outside of wasm.
 * @param {import("puppeteer-core").Page} page
 */
async function watchHeap(page) {
  const main = await page.createCDPSession();
  const measure = async () => {
    let [heap, buffers] = [0, 0];
    for (const session of [main, ...page.workers().map(({ client }) => client)]) {
      const usage = /** @type {any} */ (await session.send("Runtime.getHeapUsage").catch(() => null));
      heap += usage?.usedSize ?? 0;
      buffers += usage?.backingStorageSize ?? 0;
    }
    return { heap, buffers };
  };
  const idle = await measure();
  const peak = { ...idle };
  let samples = 0;
  let running = true;
  const loop = (async () => {
    while (running) {
      const now = await measure();
      peak.heap = Math.max(peak.heap, now.heap);
      peak.buffers = Math.max(peak.buffers, now.buffers);
      // The worker's wasm memory is among its buffers: without, the worker was not seen.
      if (now.buffers > idle.buffers) samples += 1;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  return async () => {
    running = false;
    await loop;
    await main.detach();
    if (samples < 5) throw new Error(`the worker's memory was seen ${samples} times only`);
    return { heap: peak.heap - idle.heap, buffers: peak.buffers - idle.buffers };
  };
}

/** @param {string} file */
async function sha256(file) {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk);
  return hash.digest("hex");
}

/** @param {number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

/** @param {string} why */
function fail(why) {
  console.log(`failed: ${why}`);
  process.exitCode = 1;
}

const model = fromTop("target/bench-load/model");
writeCheckpoint(model);
const tensors = tensorsOf();
const job = { url: `/model/${FILE}`, dataStart: headOf(tensors).length, tensors: tensors.map(({ begin, end }) => ({ begin, end })) };
const server = await startServe(join(process.argv[2] ?? fromTop("target"), "debug/bise"), fromTop("target/bench-load/site"));
server.mount("model", model);
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
try {
  const page = await browser.newPage();
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  const row = (/** @type {string} */ name, /** @type {string} */ value) => console.log(`${name.padEnd(44)}${value}`);
  const rate = (/** @type {{ bytes: number, ms: number }} */ { bytes, ms }) => bytes / 1e3 / ms;
  // The first of each fills the page cache of the server's machine and the browser's caches of shaders.
  row("first bare loop", `${rate(await bareLoad(page, job)).toFixed(0)} MB/s`);
  row("first load", `${rate(await engineLoad(page)).toFixed(0)} MB/s`);
  const [bare, engine, shares] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([]), /** @type {number[]} */ ([])];
  const most = { wasm: 0, heap: 0, buffers: 0 };
  for (let round = 0; round < ROUNDS; round += 1) {
    const loop = await bareLoad(page, job);
    const stop = await watchHeap(page);
    const load = await engineLoad(page);
    const { heap, buffers } = await stop();
    const again = await bareLoad(page, job);
    // The machine's mood changes: the loop before and the loop after count alike.
    const both = (rate(loop) + rate(again)) / 2;
    bare.push(both);
    engine.push(rate(load));
    shares.push(rate(load) / both);
    most.wasm = Math.max(most.wasm, load.hostMemory);
    // The wasm memory is a buffer, too.
    most.heap = Math.max(most.heap, heap);
    most.buffers = Math.max(most.buffers, buffers);
    row(`round ${round + 1}`, `${rate(load).toFixed(0)} MB/s of ${both.toFixed(0)} MB/s, ${(rate(load) / both).toFixed(2)}; whole load ${load.allMs.toFixed(0)} ms, ${load.events} events`);
  }
  const mib = (/** @type {number} */ bytes) => `${(bytes / MIB).toFixed(1)} MiB`;
  row("bytes of weights", `${tensors.at(-1)?.end}`);
  row(`bare loop, median of ${ROUNDS}`, `${median(bare).toFixed(0)} MB/s`);
  row("engine, neither hashed nor kept", `${median(engine).toFixed(0)} MB/s`);
  row("  share of the bare loop", `${median(shares).toFixed(2)}, at least ${LEAST_SHARE}`);
  const integrity = { [FILE]: await sha256(join(model, FILE)) };
  for (const [name, options] of /** @type {[string, object][]} */ ([["checked with SHA-256", { integrity }], ["checked and kept", { integrity, cache: true }]])) {
    const costs = [];
    for (let round = 0; round < COST_ROUNDS; round += 1) {
      await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
      const plain = await engineLoad(page);
      costs.push(rate(await engineLoad(page, options)) / rate(plain));
    }
    row(`${name}, share of a plain load`, `${median(costs).toFixed(2)}: ${costs.map((each) => each.toFixed(2)).join(" ")}`);
  }
  row("wasm memory", mib(most.wasm));
  row("JavaScript above idle: objects, buffers", `${mib(most.heap)}, ${mib(most.buffers)} with the wasm memory`);
  if (median(shares) < LEAST_SHARE) fail(`slower than ${LEAST_SHARE} of the bare loop`);
  if (most.wasm > MOST_MEMORY) fail(`more than ${mib(MOST_MEMORY)} of wasm memory`);
  if (most.heap + most.buffers - most.wasm > MOST_MEMORY) fail(`more than ${mib(MOST_MEMORY)} of JavaScript memory`);
} finally {
  await close();
  server.close();
}
