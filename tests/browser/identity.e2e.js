// By what a kept model is recognised: its revision, what its server tells of its files, or their hashes.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, rmSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const HUB = { hub: { "me/tale": MODELS.tale } };
const PROOF = TALE_PROOF.slice(0, 10);
const SHARD = "model-00002-of-00003.safetensors";
/** Below it no fault strikes, but the browser's own cache keeps no weights. */
const UNCACHED = "/fault/nohead/none";

/** @param {{ log: import("./server.js").Logged[] }} server */
const weightsAsked = ({ log }) => log.filter(({ path, method }) => path.endsWith(".safetensors") && method === "GET");

/**
 * Loads, lets the engine prove itself, and disposes of it.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 * @param {object} [options]
 */
async function visit(page, model, options = {}) {
  const end = await page.evaluate(async (model, options) => {
    const { Engine, outcome, proof, cache } = /** @type {any} */ (globalThis).bise;
    // No shaders to compile: what is kept is the same.
    const { value: engine, ...end } = await outcome(Engine.load(model, { backend: "cpu", ...options }));
    const text = engine ? await proof(engine) : "";
    const { cache: report, sha256 } = engine?.info ?? {};
    await engine?.dispose();
    return { ...end, text, report, sha256, kept: await cache.list(), pinned: await cache.pinned() };
  }, model, options);
  console.log(`    ${model}: ${end.code ?? end.report?.state} ${end.message ?? end.report?.note ?? ""}`);
  return end;
}

/**
 * @param {Awaited<ReturnType<typeof visit>>} end
 * @param {string} state
 */
function assertLoaded(end, state) {
  assert.equal(end.code, undefined, end.message);
  assert.ok(end.text.startsWith(PROOF), end.text);
  assert.equal(end.report.state, state, end.report.note);
}

test("a host that hides its validators: not kept, and said so; kept and found again by its hashes", async (t) => {
  const host = await startServer({ root: fromTop("www"), cors: "plain" });
  t.after(host.close);
  const { page } = await openClient(t);
  const model = `${host.url}${UNCACHED}/models/tale/`;
  const hidden = await page.evaluate(async (model) => {
    const { headers } = await fetch(`${model}config.json`);
    return [headers.get("etag"), headers.get("last-modified")];
  }, model);
  assert.deepEqual(hidden, [null, null]);
  for (let visits = 0; visits < 2; visits += 1) {
    const end = await visit(page, model);
    assertLoaded(end, "off");
    assert.match(end.report.note, /not kept for next time: its server hides .*integrity/);
    assert.deepEqual([end.kept, end.pinned], [[], []]);
  }
  // Where nothing is kept and nothing to be compared, nothing is hashed.
  const { sha256: integrity } = await visit(page, "/models/tale/");
  assert.equal(Object.keys(integrity).length, 3);
  assertLoaded(await visit(page, model, { integrity }), "stored");
  await page.reload({ waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  host.log.length = 0;
  assertLoaded(await visit(page, model, { integrity }), "loaded");
  assert.deepEqual(weightsAsked(host), []);
  // Other hashes are another model: it is fetched anew, and is not what they say.
  const other = await visit(page, model, { integrity: { ...integrity, [SHARD]: "0".repeat(64) } });
  assert.equal(other.code, "integrity", other.message);
  assert.ok(weightsAsked(host).length > 0);
  // One hash of three is no identity.
  assertLoaded(await visit(page, model, { integrity: { [SHARD]: integrity[SHARD] } }), "off");
});

test("without a cache, too, weights are what the hub says they are", async (t) => {
  const { page, server } = await openClient(t, { ...HUB, expectErrors: [/404/] });
  const options = { hubUrl: `${server.url}${UNCACHED}`, cache: false };
  for (const api of [true, false]) {
    // By the hub's list, or by x-linked-etag alone.
    server.options.refuse = (path) => (path.startsWith("/api/") && !api ? 404 : undefined);
    server.options.damage = SHARD;
    const bad = await visit(page, "me/tale", options);
    assert.equal(bad.code, "integrity", bad.message);
    assert.match(bad.message ?? "", new RegExp(`${SHARD}.*the server says`));
    delete server.options.damage;
    const sound = await visit(page, "me/tale", options);
    assertLoaded(sound, "off");
    assert.equal(Object.keys(sound.sha256).length, 3);
  }
  // By a manifest, on a server that tells nothing.
  const { sha256 } = await visit(page, "me/tale", options);
  const bad = await visit(page, `/fault/damage/${SHARD}/models/tale/`, { cache: false, integrity: sha256 });
  assert.equal(bad.code, "integrity", bad.message);
});

test("an ETag that changes is no other file where the hub's hash is known", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "bise-identity-"));
  t.after(() => rmSync(folder, { recursive: true }));
  cpSync(MODELS.tale, folder, { recursive: true });
  const { page, server } = await openClient(t, { hub: { "me/tale": folder }, expectErrors: [/503/] });
  const options = { hubUrl: server.url, network: { attempts: 1 } };
  // Stored while the hub would not say its commit.
  server.options.refuse = (path) => (path.startsWith("/api/") ? 503 : undefined);
  assertLoaded(await visit(page, "me/tale", options), "stored");
  const touch = (/** @type {(name: string) => boolean} */ which) => {
    for (const name of readdirSync(folder).filter(which)) utimesSync(join(folder, name), new Date(), new Date(2020, 1, 1));
  };
  touch((name) => name.endsWith(".safetensors"));
  server.options.refuse = undefined;
  server.log.length = 0;
  assertLoaded(await visit(page, "me/tale", options), "loaded");
  assert.deepEqual(weightsAsked(server), []);

  // Nor do a network's servers agree on one within a load.
  let answers = 0;
  server.options.etags = (path) => (path.endsWith(SHARD) ? `"${answers++}"` : undefined);
  assertLoaded(await visit(page, "me/tale", { ...options, hubUrl: `${server.url}${UNCACHED}` }), "stored");
  assert.ok(answers > 1, `${answers} answers`);
  server.options.etags = undefined;

  // Negative control: small files have no such hash, and are asked for.
  await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
  server.options.refuse = (path) => (path.startsWith("/api/") ? 503 : undefined);
  assertLoaded(await visit(page, "me/tale", options), "stored");
  touch((name) => name === "config.json");
  server.options.refuse = undefined;
  assertLoaded(await visit(page, "me/tale", options), "stored");
});

test("small files that come compressed are told apart by HEAD", async (t) => {
  const { page, server } = await openClient(t);
  server.options.gzip = true;
  assertLoaded(await visit(page, "/models/tale/"), "stored");
  server.log.length = 0;
  assertLoaded(await visit(page, "/models/tale/"), "loaded");
  assert.ok(server.log.some(({ path, method }) => path.endsWith("/config.json") && method === "HEAD"));
  server.options.etags = (path) => (path.endsWith("/config.json") ? '"another"' : undefined);
  assertLoaded(await visit(page, "/models/tale/"), "stored");
});

test("there is a way out of what was downloaded first", async (t) => {
  const { page, server } = await openClient(t);
  const model = `${UNCACHED}/models/tale/`;
  const first = await visit(page, model);
  assertLoaded(first, "stored");
  const url = `${server.url}${model}`;
  assert.deepEqual(first.pinned, [{ url, sha256: first.sha256 }]);
  await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
  server.options.damage = "model-00003-of-00003.safetensors";
  const other = await visit(page, model);
  assert.equal(other.code, "integrity", other.message);
  assert.match(other.message ?? "", /first downloaded.*cache\.forget/);
  const ends = await page.evaluate(async (model) => {
    const { cache, outcome } = /** @type {any} */ (globalThis).bise;
    const ends = [
      await outcome(cache.forget("/models/case/")), await outcome(cache.forget(model)), await outcome(cache.forget(model)),
      await outcome(cache.forget("me/tale", { hubUrl: location.origin })), await outcome(cache.remove("0123456789abcdef01234567")), await outcome(cache.remove("../x")),
      await outcome(cache.forget("nothing")), await outcome(cache.forget(7)), await outcome(cache.forget(model, { hub: "x" })),
    ];
    return { ends: ends.map(({ value, code }) => value ?? code), pinned: await cache.pinned() };
  }, model);
  assert.deepEqual(ends.ends, [false, true, false, false, false, false, "bad-request", "bad-request", "bad-request"]);
  assert.deepEqual(ends.pinned, []);
  const again = await visit(page, model);
  assert.equal(again.report?.state, "stored", again.message);
  assert.notDeepEqual(again.sha256, first.sha256);
  assert.deepEqual(again.pinned, [{ url, sha256: again.sha256 }]);
  const gone = await page.evaluate(async (id) => [await /** @type {any} */ (globalThis).bise.cache.remove(id), await /** @type {any} */ (globalThis).bise.cache.list()], again.kept[0].id);
  assert.deepEqual(gone, [true, []]);
});

test("a kept model outlives a new revision that does not come, and its description goes before it does", async (t) => {
  const { page, server } = await openClient(t, { ...HUB, expectErrors: [/50[03]/] });
  const options = { hubUrl: server.url, network: { attempts: 1, backoffMs: 1 } };
  assertLoaded(await visit(page, "me/tale", options), "stored");
  const untouched = await page.evaluate(() => /** @type {any} */ (globalThis).bise.inspect("me/tale", { hubUrl: location.origin, weights: "checkpoint" }));
  assert.equal(untouched.kept, false, "other settings are another entry");
  server.options.commit = "1".repeat(40);
  server.options.refuse = (path) => (path.includes("/resolve/") ? 503 : undefined);
  const failed = await visit(page, "me/tale", options);
  assert.equal(failed.code, "network", failed.message);
  assert.deepEqual(failed.kept.map((/** @type {any} */ { complete, revision }) => [complete, revision]), [[true, "0".repeat(40)]]);
  // Whoever looks at it does not wait for a hub that is silent, once it is told not to.
  server.options.refuse = (path) => (path.startsWith("/api/") ? 503 : undefined);
  const looked = await page.evaluate(async () => {
    const { inspect, outcome } = /** @type {any} */ (globalThis).bise;
    const hubUrl = location.origin;
    const stopped = await outcome(inspect("me/tale", { hubUrl, signal: AbortSignal.timeout(300) }));
    return { stopped, told: await inspect("me/tale", { hubUrl }) };
  });
  assert.equal(looked.stopped.code, "aborted", looked.stopped.message);
  assert.deepEqual([looked.told.kept, looked.told.chat], [true, true]);
  // It is as good as it was.
  server.options.commit = "0".repeat(40);
  server.options.refuse = undefined;
  server.log.length = 0;
  assertLoaded(await visit(page, "me/tale", options), "loaded");
  assert.deepEqual(weightsAsked(server), []);

  await page.evaluate(() => {
    /** @type {string[]} */
    const order = [];
    new BroadcastChannel("order").onmessage = ({ data }) => order.push(data);
    Object.assign(globalThis, { order });
    /** @type {any} */ (globalThis).useWorker("/pages/order-worker.js");
  });
  server.options.commit = "2".repeat(40);
  const renewed = await visit(page, "me/tale", options);
  assertLoaded(renewed, "stored");
  assert.equal(renewed.kept[0].revision, "2".repeat(40));
  const order = await page.evaluate(() => /** @type {any} */ (globalThis).order);
  assert.deepEqual(order.slice(0, 3), ["removed entry.json", "cut to 0", "cut to 0"], JSON.stringify(order));
});
