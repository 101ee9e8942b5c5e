// Mistral 7B's shape in full, in headless Chromium on SwiftShader: `./build.sh test --seven-billion`. The server
// computes the checkpoint; 8 GB of memory are taken, and half an hour. The figures go to target/seven-billion.json.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, freemem, totalmem } from "node:os";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName } from "./launch.js";
import { processMemory, watchHeaps } from "./memory.js";
import { fromTop } from "./paths.js";
import { PROMPT, checkpoint, configOf, disagreement, largestDeviation, reference, run } from "./seven.js";
import { parametersOf } from "./synthetic.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const LIMIT = 96 * MIB;
const TOKENS = 4;
/** Another size is for trying this file out. @type {import("./seven.js").Size} */
const SIZE = /** @type {any} */ (process.env.SEVEN_BILLION_SIZE ?? "seven");
const FULL = SIZE === "seven";
const REPORT = `target/${FULL ? "seven-billion" : SIZE}.json`;
/** What the device takes, and the rest of the browser and the reference. */
const NEEDED = FULL ? 11 * GIB : GIB;

const config = configOf(SIZE);
const parameters = parametersOf(config);

/** Memory that the system can give, in bytes. */
function available() {
  const kib = /MemAvailable:\s+(\d+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
  return kib === undefined ? freemem() : Number(kib) * 1024;
}

/**
 * Adds to the report.
 * @param {string} name
 * @param {Record<string, unknown>} figures
 */
function record(name, figures) {
  /** @type {Record<string, unknown>} */
  let all = {};
  try {
    all = JSON.parse(readFileSync(fromTop(REPORT), "utf8"));
  } catch {
    // The first one.
  }
  all[name] = figures;
  mkdirSync(fromTop("target"), { recursive: true });
  writeFileSync(fromTop(REPORT), `${JSON.stringify(all, null, 2)}\n`);
  for (const [what, value] of Object.entries(figures)) console.log(`    ${what.padEnd(48)}${value}`);
}

test("the shape is that of Mistral 7B", () => {
  assert.equal(browserName(), "chromium");
  if (FULL) assert.equal(parameters, 7_241_732_096);
});

for (const layout of /** @type {const} */ (["fp8", "bf16"])) {
  test(`${parameters} parameters, ${layout} on the line`, async (t) => {
    assert.ok(available() > NEEDED, `${(NEEDED / GIB).toFixed(0)} GiB of free memory are needed, ${(available() / GIB).toFixed(1)} are there`);
    const files = checkpoint(SIZE, layout);
    const sizes = [...files].filter(([name]) => name.endsWith(".safetensors")).map(([, { size }]) => size);
    if (FULL) assert.ok(Math.max(...sizes) > 4 * GIB, "a shard beyond 4 GiB");
    const { page, close } = await openClient(t, { computed: { "/computed/": files } });
    const heaps = await watchHeaps(page);
    const idle = (await processMemory(page))["renderer"]?.peak ?? 0;
    let spoke = performance.now();
    const answer = await run(page, { model: "/computed/", tokens: TOKENS, interval: 500 }, ({ state, done, total, tokens }) => {
      heaps.sample();
      if (performance.now() - spoke < 30_000) return;
      spoke = performance.now();
      console.log(`    ${state}: ${(done / 1e9).toFixed(2)} of ${(total / 1e9).toFixed(2)} GB, ${tokens} of ${TOKENS} tokens`);
    });
    const processes = await processMemory(page);
    await close(); // the reference shall have the machine to itself

    const ids = [...PROMPT, ...answer.ids.slice(0, -1)];
    const middle = Math.floor(config.num_hidden_layers / 2);
    const perturb = [
      `lm_head.weight:${answer.ids[0]}:1.02`,
      `model.layers.${middle}.mlp.down_proj.weight:7:64`,
      `model.layers.${middle}.self_attn.v_proj.weight:3:200`,
    ];
    const report = await reference(SIZE, layout, { f8: layout === "bf16", ids, last: TOKENS, perturb });
    const wrong = disagreement(answer, report.steps);
    const { info, timings, weightBytes, weightsMs, hostMemory } = answer;
    const mib = (/** @type {number} */ bytes) => `${(bytes / MIB).toFixed(1)} MiB`;
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    const heap = heaps.peak.heap - heaps.idle.heap;
    const renderer = processes["renderer"]?.peak ?? 0;
    record(layout, {
      date: new Date().toISOString().slice(0, 10),
      machine: `${cpus().length} cores (${cpus()[0]?.model ?? "?"}), ${(totalmem() / GIB).toFixed(0)} GiB`,
      adapter: info.adapter.name,
      parameters,
      "bytes of weight files": `${bytes} in ${sizes.length} files`,
      "load": `${(weightsMs / 1e3).toFixed(0)} s, ${(weightBytes / weightsMs / 1e3).toFixed(0)} MB/s`,
      "load with everything else": `${(answer.loadMs / 1e3).toFixed(0)} s`,
      [`prompt of ${timings.prompt_tokens} tokens`]: `${(timings.prompt_ms / 1e3).toFixed(1)} s`,
      "seconds per token": (timings.completion_ms / 1e3 / (TOKENS - 1)).toFixed(1),
      "on the device: weights": mib(info.memory.weights),
      "on the device: key/value cache": mib(info.memory.kvCache),
      "on the device: activations": mib(info.memory.activations),
      "wasm memory": mib(hostMemory),
      "JavaScript heaps, page and worker, above idle": `${mib(heap)} at most in ${heaps.peak.samples} samples`,
      "array buffers, page and worker": `${mib(heaps.peak.buffers)} at most`,
      "peak of the GPU process": mib(processes["GPU"]?.peak ?? 0),
      "peak of the page's process": `${mib(renderer)}, ${mib(idle)} when idle`,
      "largest deviation of a logit": `${wrong ?? largestDeviation(answer, report.steps).toExponential(1)} of the largest`,
      tokens: answer.ids.join(", "),
      "reference": `${report.seconds} s, ${mib(report.peak_bytes)}`,
    });
    assert.equal(wrong, null);
    for (const [i, control] of report.controls.entries()) assert.match(disagreement(answer, control) ?? "", /^step /, `the control ${perturb[i]}`);
    assert.equal(report.controls.length, perturb.length);
    assert.equal(info.parameters, parameters);
    assert.equal(info.contextLength, 4096);
    const kvWidth = config.num_key_value_heads * config.hidden_size / config.num_attention_heads;
    assert.equal(info.memory.kvCache, config.num_hidden_layers * 4096 * kvWidth * 2 * 2, "keys and values in f16");
    assert.ok(hostMemory < LIMIT, `${mib(hostMemory)} of wasm memory`);
    assert.ok(heaps.peak.samples > 0 && heap < LIMIT, `${mib(heap)} of heap`);
    // Whatever it is called, it lies in this process: wasm, heaps and what their buffers hold.
    assert.ok(idle > 0 && renderer - idle < 2 * LIMIT, `${mib(renderer)} of the page's process`);
    assert.ok(report.peak_bytes < (FULL ? 436_000_000 : GIB), "the reference holds less than a layer");
  });
}
