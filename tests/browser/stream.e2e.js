// Bad lines: what passes does not show in the result, what does not gives its error, and what ends is silent.

import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { EITHER_BACKEND, openClient } from "./client.js";
import { golden, vocabularyOf, wrongIds, wrongLogprobs } from "./golden.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

/** @typedef {import("./server.js").Logged} Logged */

const SHARD = "model-00002-of-00003.safetensors";
const SMOLLM2 = "model-00001-of-00003.safetensors";
const MIB = 2 ** 20;
/** Failures are what these pages are about. */
const EXPECTED = [/Failed to load resource/, /ERR_|NetworkError|NS_/];

/**
 * @typedef {{ phase: string, done: number, total: number, waiting?: { ms: number, attempt: number, reason: string } }} Progress
 * @typedef {{ code?: string, message?: string, ms: number, progress: Progress[], ids: number[], first: Record<string, number>,
 *   hostMemory: number }} Loaded
 */

/**
 * Loads a model and tells how: its end, its first logits, and every progress event of its weights and waits.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 * @param {object} [options]
 * @param {number} [tokens] to go on by
 * @returns {Promise<Loaded>}
 */
function load(page, model, options = {}, tokens = 1) {
  return page.evaluate(async (model, options, tokens, prompt) => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    /** @type {any[]} */
    const progress = [];
    const given = {
      weights: "checkpoint",
      network: { backoffMs: 30 },
      ...options,
      onProgress: (/** @type {any} */ event) => progress.push(event),
    };
    const { value: engine, ...end } = await outcome(Engine.load(model, given));
    if (!engine) return { ...end, progress, ids: [], first: {}, hostMemory: 0 };
    const { choices } = await engine.completions.create({ prompt, temperature: 0, max_tokens: tokens, ignore_eos: true, logprobs: 20 });
    const [{ token_ids: ids, logprobs }] = choices;
    const hostMemory = await engine.hostMemory();
    await engine.dispose();
    return { ...end, progress, ids, first: logprobs.top_logprobs[0], hostMemory };
  }, model, options, tokens, golden("tale", "short").input_ids);
}

/**
 * Asserts that a load said how far it was truthfully.
 * @param {Loaded} loaded
 * @param {string} what
 */
function assertTruthful({ code, message, progress }, what) {
  assert.equal(code, undefined, `${what}: ${message}`);
  const weights = progress.filter(({ phase }) => phase === "weights");
  const steps = weights.filter(({ waiting }) => !waiting).map(({ done }) => done);
  assert.deepEqual(steps, [...new Set(steps)].toSorted((a, b) => a - b), `${what}: bytes only grow`);
  assert.ok(weights.every(({ total, done }) => total === weights[0]?.total && done <= total), what);
  assert.equal(weights.at(-1)?.done, weights[0]?.total, `${what}: all bytes, each once`);
  for (const [i, { done, waiting }] of weights.entries()) {
    if (waiting) assert.equal(done, weights[i - 1]?.done ?? 0, `${what}: a wait is no progress`);
  }
}

/** Faults of one shard that pass, whether a wait has to show, and the least time they take. @type {[string, boolean, number][]} */
const PASSING = [
  ["cut.500000~3", true, 0],
  ["cut.0~1-4", true, 0],
  ["503~2", true, 0],
  ["429.1~1", true, 1000],
  ["503.d2~1", true, 900],
  ["stall.300000~1-2", true, 1500],
  ["idle.300000~1-3", true, 400],
  ["slow.700~2", false, 700],
  ["norange", false, 0],
  ["norangecut.400000~1", true, 0],
  ["nolength", false, 0],
];

test("what passes does not show in the logits", async (t) => {
  const { page, server } = await openClient(t, { backend: EITHER_BACKEND, expectErrors: EXPECTED });
  const vocabulary = vocabularyOf("tale");
  const undisturbed = await load(page, "/models/tale/", {}, 48);
  assertTruthful(undisturbed, "undisturbed");
  assert.ok(undisturbed.progress.every(({ waiting }) => !waiting));
  assert.equal(wrongLogprobs(undisturbed.first, golden("tale", "short"), vocabulary), null);
  assert.equal(wrongIds(undisturbed.ids, golden("tale", "short")), null);
  for (const [fault, waits, leastMs] of PASSING) {
    server.log.length = 0;
    const loaded = await load(page, `/fault/${fault}/${SHARD}/models/tale/`, { network: { backoffMs: 30, stallMs: 1500 } }, 8);
    const waiting = loaded.progress.flatMap(({ waiting }) => waiting ?? []);
    const sent = server.requestsFor(SHARD).reduce((sum, { bytes }) => sum + bytes, 0);
    console.log(`    ${fault}: ${loaded.ms.toFixed(0)} ms, ${server.requestsFor(SHARD).length} requests, ${sent} bytes; ${JSON.stringify(waiting[0] ?? null)}`);
    assertTruthful(loaded, fault);
    assert.deepEqual(loaded.ids, undisturbed.ids.slice(0, 8), fault);
    assert.deepEqual(loaded.first, undisturbed.first, fault);
    assert.ok(loaded.ms >= leastMs, `${fault}: ${loaded.ms} ms`);
    assert.equal(waiting.length > 0, waits, `${fault}: ${JSON.stringify(waiting)}`);
    assert.ok(waiting.every(({ attempt, ms, reason }) => attempt >= 2 && ms >= 0 && reason.includes(SHARD)), fault);
    // What was written before a connection broke may be lost with it, on a busy machine; no more than that comes twice.
    const { size } = statSync(join(MODELS.tale, SHARD));
    assert.ok(sent >= size && sent <= 2 * size, `${fault}: ${sent} of ${size} bytes`);
  }
});

test("several ranges of a large file, and one connection where a host has no ranges", async (t) => {
  const { page, server } = await openClient(t, { expectErrors: EXPECTED });
  const size = statSync(join(MODELS.smollm2, SMOLLM2)).size;
  assert.ok(size > 90 * MIB);
  const loads = [];
  for (const fault of ["", `/fault/cut.5000000~2-6/${SMOLLM2}`, `/fault/norange/${SMOLLM2}`]) {
    server.log.length = 0;
    const loaded = await load(page, `${fault}/smollm2/`, { contextLength: 256 });
    const requests = server.requestsFor(SMOLLM2);
    const sent = requests.reduce((sum, { bytes }) => sum + bytes, 0);
    console.log(`    ${fault}: ${loaded.ms.toFixed(0)} ms, ${requests.length} requests, ${sent} of ${size} bytes, wasm ${(loaded.hostMemory / MIB).toFixed(1)} MiB`);
    assertTruthful(loaded, fault);
    assert.ok(loaded.hostMemory < 96 * MIB);
    // Five connections are cut after 5 MB each, all of which may have been on its way still.
    assert.ok(sent >= size && sent < size + 5 * 5_500_000, `${sent} bytes`);
    loads.push({ ...loaded, requests });
  }
  const [plain, cut, whole] = loads;
  assert.deepEqual(cut?.first, plain?.first);
  assert.deepEqual(whole?.first, plain?.first);
  // The host's other files have ranges: a lane or two are opened in vain.
  assert.deepEqual(whole?.requests.filter(({ bytes }) => bytes > size / 2).map(({ status, bytes }) => [status, bytes]), [[200, size]]);
  const ranges = (plain?.requests ?? []).map(({ range }) => Number(/bytes=(\d+)-/.exec(range ?? "")?.[1]));
  assert.ok(ranges.length > 5 && ranges.every((begin, i) => begin >= (ranges[i - 1] ?? 0)), `in order: ${ranges}`);
});

/**
 * Whether the server stops sending, in the first half of the file that was on its way: as many bytes and requests
 * now as a while later. A busy machine takes a moment to notice that a connection is closed.
 * @param {{ log: Logged[], requestsFor: (file: string) => Logged[] }} server
 */
async function fallsSilent(server) {
  const count = () => server.log.reduce((sum, { bytes }) => sum + bytes, server.log.length);
  for (let before = -1; before !== count();) {
    before = count();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  const sent = server.requestsFor(SMOLLM2).reduce((sum, { bytes }) => sum + bytes, 0);
  console.log(`    ${sent} bytes were sent`);
  return sent < statSync(join(MODELS.smollm2, SMOLLM2)).size / 2;
}

test("an abort and a failure end all ranges at once", async (t) => {
  const { page, server } = await openClient(t, { expectErrors: EXPECTED, bytesPerSecond: 5e6 });
  const abortAfter = (/** @type {string} */ model, /** @type {string} */ when) => page.evaluate(async (model, when) => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    const controller = new AbortController();
    let [abortedAt, late] = [0, 0];
    const onProgress = (/** @type {any} */ { phase, done, waiting }) => {
      if (abortedAt > 0) late += 1;
      else if (when === "waiting" ? waiting : phase === "weights" && done > 1e6) {
        abortedAt = performance.now();
        setTimeout(() => controller.abort(), 50);
      }
    };
    const end = await outcome(Engine.load(model, { contextLength: 256, signal: controller.signal, onProgress }));
    return { ...end, tookMs: performance.now() - abortedAt - 50, late };
  }, model, when);

  const running = await abortAfter("/smollm2/", "weights");
  assert.equal(running.code, "aborted", running.message);
  assert.ok(running.tookMs < 500, `${running.tookMs} ms`);
  const ranges = server.requestsFor(SMOLLM2).filter(({ range }) => range !== "bytes=0-65535");
  assert.ok(ranges.length >= 2, "several ranges were on their way");
  assert.ok(await fallsSilent(server), "silence after the abort");
  server.log.length = 0;

  const waiting = await abortAfter(`/fault/503.60/${SHARD}/models/tale/`, "waiting");
  assert.equal(waiting.code, "aborted", waiting.message);
  assert.ok(waiting.tookMs < 500, `${waiting.tookMs} ms`);
  assert.equal(waiting.late, 0);

  const missing = await load(page, `/fault/404~2-/${SMOLLM2}/smollm2/`, { contextLength: 256 });
  assert.equal(missing.code, "bad-checkpoint");
  assert.match(missing.message ?? "", /smollm2\/model-00001-of-00003\.safetensors: not found/);
  assert.ok(await fallsSilent(server), "silence after the failure");
});

test("what does not pass says what, where and how often", async (t) => {
  const { page, server } = await openClient(t, { backend: EITHER_BACKEND, expectErrors: EXPECTED });
  const network = { attempts: 3, backoffMs: 10, stallMs: 400 };
  for (const [fault, code, said, requests] of /** @type {[string, string, RegExp, number][]} */ ([
    ["503~1-", "network", /answered 503; try again later \(at byte 65536, attempts: 3\)/, 4],
    ["stall.0~1-", "network", /nothing came for 1 s \(at byte 65536, attempts: 3\)/, 4],
    ["403~1-", "network", /answered 403.*\(at byte 65536, attempts: 1\)/, 2],
    ["429.3600", "network", /answered 429/, 1],
    ["etag~1-", "integrity", /changed on the server while it was read/, 2],
  ])) {
    server.log.length = 0;
    const end = await load(page, `/fault/${fault}/${SHARD}/models/tale/`, { network });
    console.log(`    ${fault}: ${end.code}: ${end.message}`);
    assert.equal(end.code, code, fault);
    assert.match(end.message ?? "", said, fault);
    assert.ok(end.message?.includes(SHARD), fault);
    assert.equal(server.requestsFor(SHARD).length, requests, fault);
  }
  const refused = await page.evaluate(async () => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    const refuse = (/** @type {any} */ network) => outcome(Engine.load("/models/tale/", { network }));
    return [await refuse({ attempts: -1 }), await refuse({ tries: 3 }), await refuse(5)];
  });
  assert.deepEqual(refused.map(({ code }) => code), ["bad-request", "bad-request", "bad-request"]);
});

for (const cors of /** @type {(true | "plain")[]} */ ([true, "plain"])) {
  test(`weights that lie on another origin, ${cors === true ? "which exposes its headers" : "which exposes none"}`, async (t) => {
    const store = await startServer({ root: fromTop("www"), mounts: { "/smollm2/": MODELS.smollm2 }, cors });
    t.after(store.close);
    const redirect = (/** @type {string} */ path) => (path.endsWith(".safetensors") ? store.url + path : null);
    const { page, server } = await openClient(t, { redirect });
    const headers = { Authorization: "Bearer secret" };
    const small = await load(page, "/models/tale/", { headers }, 48);
    const large = await load(page, "/smollm2/", { headers, contextLength: 256 });
    for (const [loaded, what] of /** @type {const} */ ([[small, "tale"], [large, "smollm2"]])) assertTruthful(loaded, what);
    assert.equal(wrongIds(small.ids, golden("tale", "short")), null);
    const asked = server.log.filter(({ path }) => /\.safetensors$/.test(path));
    assert.ok(asked.length > 15 && asked.every(({ status, authorization }) => status === 302 && authorization === "Bearer secret"));
    const stored = store.log.filter(({ method }) => method === "GET");
    assert.equal(stored.length, asked.length);
    assert.ok(stored.every(({ authorization, status }) => authorization === null && status === 206), JSON.stringify(stored[0]));
  });
}
