// A device without room: what is refused before any weight is fetched, and what runs out in the middle.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";

/**
 * Whatever the client starts next as its worker is this script; later ones are the package's own.
 * @param {import("puppeteer-core").Page} page
 * @param {string} script
 */
const nextWorker = (page, script) => page.evaluate((script) => {
  const Original = globalThis.Worker;
  globalThis.Worker = class extends Original {
    /** @param {string | URL} _script @param {WorkerOptions} [options] */
    constructor(_script, options) {
      super(script, options);
      globalThis.Worker = Original;
    }
  };
}, script);

/**
 * Loads tale.
 * @param {import("puppeteer-core").Page} page
 * @param {object} [options]
 */
const load = (page, options = {}) => page.evaluate(async (options) => {
  const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
  const { value: engine, ...end } = await outcome(Engine.load("/models/tale/", /** @type {any} */ ({ weights: "checkpoint", ...options })));
  const text = engine ? await proof(engine) : "";
  const memory = engine?.info.memory;
  await engine?.dispose();
  return { ...end, text, memory };
}, options);

/** Bytes of weight files that were sent. @param {{ log: import("./server.js").Logged[] }} server */
const fetched = (server) => server.log.filter(({ path }) => path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);

/** The beginnings of three files. */
const HEADERS = 3 * (64 << 10);

test("memory that cannot suffice is refused before weights are fetched, with label and bytes", async (t) => {
  const { page, server } = await openClient(t);
  const { memory, text } = await load(page);
  assert.ok(text.startsWith(TALE_PROOF.slice(0, 10)));
  assert.ok(fetched(server) > memory.weights * 0.9, "a whole load fetches the weights");
  // A little more than activations alone, than activations and cache, and than all but the last weights.
  const cases = [
    { bytes: memory.activations * 0.5, label: /activations/, least: memory.activations * 0.9 },
    { bytes: memory.activations + memory.kvCache * 0.5, label: /key\/value cache/, least: memory.kvCache * 0.9 },
    { bytes: memory.activations + memory.kvCache + memory.weights * 0.9, label: /the weights/, least: memory.weights * 0.9 },
  ];
  for (const { bytes, label, least } of cases) {
    server.log.length = 0;
    await nextWorker(page, `/pages/limited-worker.js?bytes=${Math.round(bytes)}`);
    const end = await load(page);
    assert.equal(end.code, "out-of-memory", JSON.stringify(end));
    assert.match(end.message ?? "", label);
    const [, told] = /\((\d+) bytes\)/.exec(end.message ?? "") ?? [];
    assert.ok(Number(told) >= least && Number(told) < memory.total * 1.1, end.message);
    assert.ok(fetched(server) <= HEADERS, `${fetched(server)} bytes of weights for ${label}`);
  }
  // Nothing is left behind that would keep the next one from loading.
  assert.ok((await load(page)).text.startsWith(TALE_PROOF.slice(0, 10)));
});

test("memory that runs out while weights stream ends the load by name, and the page loads on", async (t) => {
  const { page } = await openClient(t);
  for (const write of [25, 45]) {
    await nextWorker(page, `/pages/limited-worker.js?write=${write}`);
    const end = await load(page);
    assert.equal(end.code, "out-of-memory", JSON.stringify(end));
    assert.match(end.message ?? "", /an upload \(\d+ bytes\)/);
  }
  assert.ok((await load(page)).text.startsWith(TALE_PROOF.slice(0, 10)));
});

test("memory that runs out in a reply fails that reply, and the engine goes on", async (t) => {
  const { page } = await openClient(t);
  await nextWorker(page, "/pages/limited-worker.js?label=params");
  const { first, text } = await page.evaluate(async () => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const { value, ...first } = await outcome(proof(engine));
    const text = await proof(engine);
    await engine.dispose();
    return { first: { ...first, value }, text };
  });
  assert.equal(first.code, "out-of-memory", JSON.stringify(first));
  assert.match(first.message ?? "", /params \(\d+ bytes\)/);
  assert.ok(text.startsWith(TALE_PROOF.slice(0, 10)), text);
  assert.ok((await load(page)).text.startsWith(TALE_PROOF.slice(0, 10)));
});
