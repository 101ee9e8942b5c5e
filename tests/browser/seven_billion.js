// Mistral 7B's shape in full, in headless Chromium on SwiftShader: `./build.sh test --seven-billion`. The server
// computes the checkpoint; 8 GB of memory are taken, 8 GB of disk for what the browser keeps of FP8, and an hour. The
// figures go to target/seven-billion.json.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, statfsSync, writeFileSync } from "node:fs";
import { cpus, freemem, totalmem } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName, launch } from "./launch.js";
import { forgetPeaks, processMemory, watchHeaps } from "./memory.js";
import { fromTop } from "./paths.js";
import { PROMPT, checkpoint, configOf, disagreement, largestDeviation, reference, run } from "./seven.js";
import { startServer } from "./server.js";
import { parametersOf } from "./synthetic.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const LIMIT = 96 * MIB;
const TOKENS = 4;
/** Of the second visit, which is compared with the first alone: a token takes minutes here. */
const TOKENS_AGAIN = 2;
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

/** @param {number} bytes */
const mib = (bytes) => `${(bytes / MIB).toFixed(1)} MiB`;

/**
 * A page of a browser whose profile lies on disk, as a visitor's does: in other contexts Chromium keeps in memory what
 * pages store. The profile goes with the test.
 * @param {import("node:test").TestContext} t
 * @param {Partial<import("./server.js").ServerOptions>} options
 * @param {number} bytes that will be stored
 */
async function openOnDisk(t, options, bytes) {
  const server = await startServer({ root: fromTop("target/site"), mounts: { "/pages/": fromTop("tests/browser/pages") }, ...options });
  t.after(server.close);
  const profile = mkdtempSync(join(fromTop("target"), "profile-"));
  const { browser, close } = await launch("chromium", profile, { networkEnabled: false });
  t.after(close);
  const { bavail, bsize } = statfsSync(profile);
  assert.ok(bavail * bsize > bytes + 2 * GIB, `${bytes} bytes are to be kept, ${bavail * bsize} are free on the disk of ${profile}`);
  const page = await browser.newPage();
  const open = async () => {
    await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
    await page.waitForFunction("globalThis.bise !== undefined");
  };
  await open();
  return { page, server, close, reload: open };
}

/**
 * One visit: a load and a completion, and what they took.
 * @param {import("puppeteer-core").Page} page
 * @param {boolean} cache
 * @param {number} tokens
 */
async function visit(page, cache, tokens) {
  await forgetPeaks(page);
  const idle = (await processMemory(page))["renderer"]?.peak ?? 0;
  const heaps = await watchHeaps(page);
  let spoke = performance.now();
  const options = { backend: "webgpu", cache };
  const answer = await run(page, { model: "/computed/", options, tokens, interval: 500 }, ({ state, done, total, tokens: made }) => {
    heaps.sample();
    if (performance.now() - spoke < 30_000) return;
    spoke = performance.now();
    console.log(`    ${state}: ${(done / 1e9).toFixed(2)} of ${(total / 1e9).toFixed(2)} GB, ${made} of ${tokens} tokens`);
  });
  const processes = await processMemory(page);
  const { info, timings, weightBytes, weightsMs, loadMs, hostMemory } = answer;
  const heap = heaps.peak.heap - heaps.idle.heap;
  const renderer = processes["renderer"]?.peak ?? 0;
  /** @type {Record<string, string | number>} */
  const figures = {
    "kept in this browser": `${info.cache.state}${info.cache.note === null ? "" : `: ${info.cache.note}`}`,
    "weights": `${(weightsMs / 1e3).toFixed(0)} s, ${(weightBytes / weightsMs / 1e3).toFixed(0)} MB/s`,
    "load with everything else": `${(loadMs / 1e3).toFixed(0)} s`,
    [`prompt of ${timings.prompt_tokens} tokens`]: `${(timings.prompt_ms / 1e3).toFixed(1)} s`,
    "seconds per token": (timings.completion_ms / 1e3 / (tokens - 1)).toFixed(1),
    "on the device: weights": mib(info.memory.weights),
    "on the device: key/value cache": mib(info.memory.kvCache),
    "on the device: activations": mib(info.memory.activations),
    "wasm memory": mib(hostMemory),
    "JavaScript heaps, page and worker, above idle": `${mib(heap)} at most in ${heaps.peak.samples} samples`,
    "array buffers, page and worker": `${mib(heaps.peak.buffers)} at most`,
    "peak of the GPU process": mib(processes["GPU"]?.peak ?? 0),
    "peak of the browser process": mib(processes["browser"]?.peak ?? 0),
    "peak of the page's process": `${mib(renderer)}, ${mib(idle)} before`,
    tokens: answer.ids.join(", "),
  };
  const check = () => {
    assert.equal(info.parameters, parameters);
    assert.equal(info.contextLength, 4096);
    const kvWidth = config.num_key_value_heads * config.hidden_size / config.num_attention_heads;
    assert.equal(info.memory.kvCache, config.num_hidden_layers * 4096 * kvWidth * 2 * 2, "keys and values in f16");
    assert.ok(hostMemory < LIMIT, `${mib(hostMemory)} of wasm memory`);
    assert.ok(heaps.peak.samples > 0 && heap < LIMIT, `${mib(heap)} of heap`);
    // Whatever it is called, it lies in this process: wasm, heaps and what their buffers hold.
    assert.ok(idle > 0 && renderer - idle < 2 * LIMIT, `${mib(renderer)} of the page's process`);
  };
  return { answer, figures, check };
}

for (const layout of /** @type {const} */ (["fp8", "bf16"])) {
  const isKept = layout === "fp8";
  test(`${parameters} parameters, ${layout} on the line${isKept ? ", kept, and loaded again" : ""}`, async (t) => {
    assert.ok(available() > NEEDED, `${(NEEDED / GIB).toFixed(0)} GiB of free memory are needed, ${(available() / GIB).toFixed(1)} are there`);
    const files = checkpoint(SIZE, layout);
    const sizes = [...files].filter(([name]) => name.endsWith(".safetensors")).map(([, { size }]) => size);
    if (FULL) assert.ok(Math.max(...sizes) > 4 * GIB, "a shard beyond 4 GiB");
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    const machine = {
      date: new Date().toISOString().slice(0, 10),
      machine: `${cpus().length} cores (${cpus()[0]?.model ?? "?"}), ${(totalmem() / GIB).toFixed(0)} GiB`,
      parameters,
      "bytes of weight files": `${bytes} in ${sizes.length} files`,
    };
    const serving = { computed: { "/computed/": files } };
    const first = await (async () => {
      if (!isKept) {
        const { page, close } = await openClient(t, serving);
        const only = await visit(page, false, TOKENS);
        await close(); // the reference shall have the machine to itself
        return only;
      }
      const { page, server, close, reload } = await openOnDisk(t, serving, bytes);
      const space = await page.evaluate(() => navigator.storage.estimate());
      const stored = await visit(page, true, TOKENS);
      record(`${layout}, stored`, { ...machine, "quota of the browser": space.quota, ...stored.figures });
      assert.equal(stored.answer.info.cache.state, "stored", stored.answer.info.cache.note);
      const [kept] = await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.list());
      assert.ok(kept.complete && kept.bytes > (FULL ? 4 * GIB : 0), `${kept.bytes} bytes are kept`);

      server.log.length = 0;
      await reload();
      const loaded = await visit(page, true, TOKENS_AGAIN);
      record(`${layout}, loaded again`, { "bytes kept": kept.bytes, ...loaded.figures });
      assert.equal(loaded.answer.info.cache.state, "loaded", loaded.answer.info.cache.note);
      const asked = server.log.filter(({ path, method }) => path.endsWith(".safetensors") && method !== "HEAD");
      assert.deepEqual(asked, [], "requests for weights");
      assert.deepEqual(loaded.answer.ids, stored.answer.ids.slice(0, TOKENS_AGAIN));
      assert.deepEqual(loaded.answer.top, stored.answer.top.slice(0, TOKENS_AGAIN), "the same bits");
      assert.ok(Object.keys(loaded.answer.top[0] ?? {}).length > 12);
      loaded.check();
      await close();
      return stored;
    })();

    const { answer } = first;
    const ids = [...PROMPT, ...answer.ids.slice(0, -1)];
    const middle = Math.floor(config.num_hidden_layers / 2);
    const perturb = [
      `lm_head.weight:${answer.ids[0]}:1.02`,
      `model.layers.${middle}.mlp.down_proj.weight:7:64`,
      `model.layers.${middle}.self_attn.v_proj.weight:3:200`,
    ];
    const report = await reference(SIZE, layout, { f8: layout === "bf16", ids, last: TOKENS, perturb });
    const wrong = disagreement(answer, report.steps);
    record(layout, {
      ...machine,
      adapter: answer.info.adapter.name,
      ...first.figures,
      "largest deviation of a logit": `${wrong ?? largestDeviation(answer, report.steps).toExponential(1)} of the largest`,
      "reference": `${report.seconds} s, ${mib(report.peak_bytes)}`,
    });
    assert.equal(wrong, null);
    for (const [i, control] of report.controls.entries()) assert.match(disagreement(answer, control) ?? "", /^step /, `the control ${perturb[i]}`);
    assert.equal(report.controls.length, perturb.length);
    first.check();
    assert.ok(report.peak_bytes < (FULL ? 436_000_000 : GIB), "the reference holds less than a layer");
  });
}
