// A browser that is killed while it loads a model goes on where it was, as often as it is killed.

import assert from "node:assert/strict";
import { readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { browserName, launch, newProfile } from "./launch.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

/** Firefox starts too slowly for as many. */
const KILLS = browserName() === "chromium" ? 30 : 6;
const AGAIN_AT_MOST = 64 << 20;
const SEED = 20261128;
/** Bytes at the beginning of each file that come with its header. */
const HEADER_BYTES = 65_536;

/** Where each weight file would begin if they lay one behind the other. @type {Map<string, number>} */
const STARTS = new Map();
let end = 0;
for (const file of readdirSync(MODELS.smollm2).filter((name) => name.endsWith(".safetensors")).sort()) {
  STARTS.set(file, end);
  end += statSync(join(MODELS.smollm2, file)).size;
}

/** @param {number} seed */
function random(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Starts a browser in that profile, on the page.
 * @param {string} profile
 * @param {string} url
 */
async function start(profile, url) {
  const { browser, kill } = await launch(browserName(), profile);
  const page = await browser.newPage();
  await page.goto(`${url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  return { page, kill };
}

/** A hub that no fault strikes, but of which the browser's own cache keeps no weights. */
const HUB = "/fault/nohead/none";

/** @param {import("puppeteer-core").Page} page */
function loadAndPredict(page) {
  return page.evaluate(async (hub) => {
    const { Engine, outcome, cache } = /** @type {any} */ (globalThis).bise;
    const { value: engine, ...end } = await outcome(Engine.load("me/smollm2", { hubUrl: location.origin + hub }));
    if (!engine) return { ...end, state: "", top: [], kept: [] };
    const { choices } = await engine.completions.create({ prompt: "The capital of France is", temperature: 0, max_tokens: 3, logprobs: 5 });
    const { top_logprobs: top } = choices[0].logprobs;
    const { state } = engine.info.cache;
    await engine.dispose();
    return { ...end, state, top, kept: await cache.list() };
  }, HUB);
}

test(`killed ${KILLS} times at random, a load goes on and downloads little again`, async (t) => {
  const server = await startServer({
    root: fromTop("target/site"),
    mounts: { "/pages/": fromTop("tests/browser/pages") },
    hub: { "me/smollm2": MODELS.smollm2 },
    bytesPerSecond: 60_000_000,
  });
  t.after(server.close);
  const profile = newProfile(browserName());
  t.after(() => rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));
  const next = random(SEED);

  const truth = await undisturbed(server.url);
  assert.equal(truth.state, "stored", truth.message);
  assert.equal(truth.top.length, 3);

  let [whole, most, before] = [0, 0, 0];
  for (let kills = 0; kills < KILLS;) {
    const { page, kill } = await start(profile, server.url);
    const [kept] = await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.list());
    server.log.length = 0;
    if (kept?.complete) {
      await check(page, truth, kills);
      await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
      [whole, before] = [whole + 1, 0];
      server.log.length = 0;
    }
    page.evaluate((hub) => void /** @type {any} */ (globalThis).bise.Engine.load("me/smollm2", { hubUrl: location.origin + hub }), HUB).catch(() => {});
    // One in five anywhere from the start on; the others while weights come, or are read back.
    if (next() > 0.2) await weightsCome(server.log);
    const ms = next() * 4000;
    await new Promise((resolve) => setTimeout(resolve, ms));
    await kill();
    kills += 1;
    const [began, sent] = [firstByte(server.log), bytesOf(server.log)];
    // Where this load went on tells what the one before it had lost. Null: it was killed before it asked for any.
    const again = began === null ? 0 : Math.max(0, before - began);
    if (began !== null) before = began + sent;
    most = Math.max(most, again);
    console.log(`    kill ${kills} after ${ms.toFixed(0)} ms: from ${mib(began ?? before)}, ${mib(sent)} sent; ${mib(again)} once more`);
    assert.ok(again <= AGAIN_AT_MOST, `seed ${SEED}, kill ${kills}: ${again} bytes downloaded again`);
  }
  const { page, kill } = await start(profile, server.url);
  server.log.length = 0;
  await check(page, truth, KILLS);
  await kill();
  const again = Math.max(0, before - (firstByte(server.log) ?? before));
  assert.ok(again <= AGAIN_AT_MOST, `seed ${SEED}: ${again} bytes downloaded again`);
  console.log(`    ${KILLS} kills, ${whole + 1} whole models; at most ${mib(Math.max(most, again))} downloaded again after a kill`);
});

/** What the weights must predict, in a profile of its own. @param {string} url */
async function undisturbed(url) {
  const profile = newProfile(browserName());
  const { page, kill } = await start(profile, url);
  const end = await loadAndPredict(page);
  await kill();
  rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  return end;
}

/**
 * @param {import("puppeteer-core").Page} page
 * @param {Awaited<ReturnType<typeof loadAndPredict>>} truth
 * @param {number} kills
 */
async function check(page, truth, kills) {
  const end = await loadAndPredict(page);
  console.log(`    after ${kills} kills: ${end.state}`);
  assert.equal(end.code, undefined, `seed ${SEED}, kill ${kills}: ${end.message}`);
  assert.deepEqual(end.top, truth.top, `seed ${SEED}, kill ${kills}: the weights are damaged`);
  assert.deepEqual(end.kept.map((/** @type {{ complete: boolean }} */ { complete }) => complete), [true]);
}

/** @typedef {import("./server.js").Logged} Logged */

/** Until weights are sent, or it takes long: everything may be kept. @param {Logged[]} log */
async function weightsCome(log) {
  for (const began = performance.now(); firstByte(log) === null && performance.now() - began < 15_000;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Bytes of weight files that were sent. @param {Logged[]} log */
function bytesOf(log) {
  return log.reduce((sum, { path, bytes }) => sum + (path.endsWith(".safetensors") ? bytes : 0), 0);
}

/** Where in all weight files, one behind the other, the first request for weights began. @param {Logged[]} log */
function firstByte(log) {
  const places = log.flatMap(({ path, range }) => {
    const start = Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const file = path.split("/").at(-1) ?? "";
    return path.endsWith(".safetensors") && start >= HEADER_BYTES ? [(STARTS.get(file) ?? 0) + start] : [];
  });
  return places.length === 0 ? null : Math.min(...places);
}

/** @param {number} bytes */
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
