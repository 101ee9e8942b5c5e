// What does not fit into the memory of WebAssembly is refused before any weight is fetched, and what fits runs in it.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { fromTop } from "./paths.js";
import { SPARSE, writeSparse } from "./sparse.js";

const folder = mkdtempSync(join(tmpdir(), "bise-sparse-"));
writeSparse(folder);
test.after(() => rmSync(folder, { recursive: true }));

/** Bytes of weight files that were sent. @param {{ log: import("./server.js").Logged[] }} server */
const fetched = (server) => server.log.filter(({ path }) => path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);

/** What an error says: needed, for weights, key/value cache and activations, and what there is. @param {string} message */
function numbers(message) {
  const said = /takes (\d+) bytes .*\((\d+) for weights, (\d+) for the key\/value cache, (\d+) for activations\), and there are (\d+)/.exec(message);
  assert.ok(said, message);
  return said.slice(1).map(Number);
}

/** Bytes by which two runs may differ: pieces come as the network cuts them. */
const SLACK = 2 ** 20;

test("a 7B model is refused on the processor before its weights are fetched, and inspected so", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto", mounts: { "/seven/": folder } });
  const { load, auto, webgpu } = await page.evaluate(async () => {
    const { Engine, inspect, outcome } = /** @type {any} */ (globalThis).bise;
    return { load: await outcome(Engine.load("/seven/")), auto: await inspect("/seven/"), webgpu: await inspect("/seven/", { backend: "webgpu" }) };
  });
  assert.equal(load.code, "out-of-memory", JSON.stringify(load));
  const [needed = 0, weights = 0, kvCache, activations, limit = 0] = numbers(load.message ?? "");
  assert.ok(weights >= SPARSE.bytes && weights < 1.001 * SPARSE.bytes, `${weights} bytes of weights`);
  assert.ok(limit < 2 ** 32 && limit > 0.95 * 2 ** 32, `${limit} bytes there are`);
  assert.ok(fetched(server) <= 6 * (256 << 10), `${fetched(server)} bytes of weights were fetched`);
  assert.equal(auto.backend, "cpu");
  assert.match(auto.backendReason, /is software/);
  assert.deepEqual(auto.problems, [load.message]);
  assert.deepEqual(auto.memory, { weights, kvCache, activations, total: needed });
  assert.deepEqual(auto.contexts, [], "no length fits");
  assert.deepEqual([webgpu.backend, webgpu.backendReason, webgpu.problems], ["webgpu", null, []]);
});

test("a merge into the processor's memory has room for what it keeps of its parents", async (t) => {
  const { page, server } = await openClient(t, { backend: "cpu" });
  const recipe = readFileSync(fromTop("tests/fixtures/recipes/tale-x-case.yml"), "utf8");
  /** @param {boolean} merged @param {string | null} worker */
  const run = (merged, worker) => page.evaluate(async (recipe, worker) => {
    const { useWorker, bise: { Engine, outcome, proof } } = /** @type {any} */ (globalThis);
    useWorker(worker);
    const model = recipe === null ? "/models/tale/" : { recipe, models: { "./tale": "/models/tale/", "./case": "/models/case/" } };
    const { value: engine, ...end } = await outcome(Engine.load(model, { weights: "checkpoint", cache: false }));
    if (!engine) return { ...end, text: "", memory: 0 };
    const text = await proof(engine);
    const memory = await engine.hostMemory();
    await engine.dispose();
    return { ...end, text, memory };
  }, merged ? recipe : null, worker);
  const [plain, free] = [await run(false, null), await run(true, null)];
  assert.equal(free.code, undefined, free.message);
  console.log(`    ${plain.memory} bytes, merged ${free.memory}`);
  assert.ok(free.memory > plain.memory, `${free.memory} bytes, ${plain.memory} without a merge`);
  const most = Math.ceil(free.memory / 2 ** 20);
  server.log.length = 0;
  const small = await run(true, `/pages/small-memory-worker.js?mib=${most - 8}`);
  assert.equal(small.code, "out-of-memory", JSON.stringify(small));
  assert.ok(fetched(server) <= 6 * (64 << 10), `${fetched(server)} bytes of weights were fetched`);
  const enough = await run(true, `/pages/small-memory-worker.js?mib=${most}`);
  assert.equal(enough.text, free.text, JSON.stringify(enough));
  assert.ok(Math.abs(enough.memory - free.memory) <= SLACK, `${enough.memory} bytes, ${free.memory}`);
});

test("memory that runs out later is told as that, and what there was goes on where it can", async (t) => {
  const { page } = await openClient(t, { backend: "cpu", expectErrors: [/unreachable/] });
  const recipe = readFileSync(fromTop("tests/fixtures/recipes/tale-x-case.yml"), "utf8");
  /** @param {string | null} worker */
  const run = (worker) => page.evaluate(async (recipe, worker) => {
    const { useWorker, bise: { Engine, outcome, proof } } = /** @type {any} */ (globalThis);
    useWorker(worker);
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint", cache: false });
    const memory = await engine.hostMemory();
    // Other weights, before which there is no room for what reads them: the old ones stay.
    const { value: _, ...replaced } = worker === null ? {} : await outcome(engine.replaceWeights({ recipe, models: { "./tale": "/models/tale/", "./case": "/models/case/" } }));
    const text = await proof(engine);
    // More text than there is room for.
    const { value: __, ...asked } = worker === null ? {} : await outcome(engine.completions.create({ prompt: "a ".repeat(48 << 20), max_tokens: 1 }));
    const { value: ___, ...later } = worker === null ? {} : await outcome(engine.completions.create({ prompt: "a", max_tokens: 1 }));
    await engine.dispose();
    // The page goes on.
    useWorker(null);
    const again = await Engine.load("/models/tale/", { weights: "checkpoint", cache: false });
    const after = await proof(again);
    await again.dispose();
    return { memory, replaced, text, asked, later, after };
  }, recipe, worker);
  const free = await run(null);
  const tight = await run(`/pages/small-memory-worker.js?mib=${Math.ceil(free.memory / 2 ** 20)}`);
  const messages = JSON.stringify(tight).slice(0, 2000);
  assert.equal(tight.replaced.code, "out-of-memory", messages);
  assert.match(tight.replaced.message ?? "", /no memory for what reads the weights/);
  assert.equal(tight.text, TALE_PROOF, messages);
  assert.deepEqual([tight.asked.code, tight.later.code], ["device-lost", "device-lost"], messages);
  assert.match(tight.asked.message ?? "", /for want of memory/);
  assert.equal(tight.after, TALE_PROOF);
});

test("a browser that gives less memory is found out before the weights, and what it gives suffices to the end", async (t) => {
  const { page, server } = await openClient(t, { backend: "cpu" });
  /** @param {string | null} worker */
  const run = (worker) => page.evaluate(async (worker) => {
    const { useWorker, bise: { Engine, inspect, outcome, proof } } = /** @type {any} */ (globalThis);
    useWorker(worker);
    const { value: engine, ...end } = await outcome(Engine.load("/models/tale/", { weights: "checkpoint", cache: false }));
    if (!engine) return { ...end, text: "", long: 0, memory: 0, info: null, told: null };
    const text = await proof(engine);
    const long = await engine.completions.create({ prompt: Array.from({ length: 480 }, (_, i) => 5 + (i * 37) % 900), max_tokens: 24, ignore_eos: true, logprobs: 20 });
    const memory = await engine.hostMemory();
    await engine.dispose();
    return { ...end, text, long: long.usage.completion_tokens, memory, info: engine.info, told: await inspect("/models/tale/", { weights: "checkpoint", backend: "cpu" }) };
  }, worker);
  const free = await run(null);
  assert.deepEqual([free.text, free.long, free.info.backend], [TALE_PROOF, 24, "cpu"], JSON.stringify(free));
  // What is foretold is what is taken.
  assert.deepEqual(free.told.memory, free.info.memory);
  assert.deepEqual([free.told.backend, free.told.problems], ["cpu", []]);
  const most = Math.ceil(free.memory / 2 ** 20);

  server.log.length = 0;
  const small = await run(`/pages/small-memory-worker.js?mib=${most - 8}`);
  assert.equal(small.code, "out-of-memory", JSON.stringify(small));
  const [needed = 0, weights, kvCache, activations, limit = 0] = numbers(small.message ?? "");
  const { memory } = free.info;
  assert.deepEqual({ weights, kvCache, activations, total: needed }, memory);
  assert.ok(limit < needed, `${limit} bytes for ${needed}`);
  assert.ok(fetched(server) <= 3 * (64 << 10), `${fetched(server)} bytes of weights were fetched`);

  // No more than what was made sure of, and the page goes on.
  const enough = await run(`/pages/small-memory-worker.js?mib=${most}`);
  assert.deepEqual([enough.text, enough.long], [TALE_PROOF, 24], JSON.stringify(enough));
  assert.ok(Math.abs(enough.memory - free.memory) <= SLACK, `${enough.memory} bytes, ${free.memory}`);
});
