// What is kept of a model, and what a second visit asks for.

import assert from "node:assert/strict";
import test from "node:test";
import { EITHER_BACKEND, TALE_PROOF, openClient } from "./client.js";
import { browserName } from "./launch.js";
import { MODELS } from "./paths.js";

/** Weights of the model tale in its files, in bytes. */
const WEIGHTS_AT_LEAST = 6_000_000;
const HUB = { hub: { "me/tale": MODELS.tale } };
const PROOF = TALE_PROOF.slice(0, 10);

/**
 * From here on engines start with that script, or with their own.
 * @param {import("puppeteer-core").Page} page
 * @param {string | null} script
 */
const useWorker = (page, script) => page.evaluate((script) => /** @type {any} */ (globalThis).useWorker(script), script);

/** @typedef {import("./server.js").Logged} Logged */
/** @param {Logged} entry */
const isForWeights = ({ path }) => (path.split("?")[0] ?? "").endsWith(".safetensors");
/** @param {{ log: Logged[] }} server */
const weightBytes = ({ log }) => log.filter(isForWeights).reduce((sum, { bytes }) => sum + bytes, 0);

/**
 * Loads, lets the engine prove itself, and disposes of it.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 * @param {object} [options]
 */
async function visit(page, model, options = {}) {
  const end = await page.evaluate(async (model, options) => {
    const { Engine, outcome, proof, cache } = /** @type {any} */ (globalThis).bise;
    /** @type {Set<string>} */
    const notes = new Set();
    const onProgress = (/** @type {{ note?: string }} */ { note }) => { if (note) notes.add(note); };
    const { value: engine, ...end } = await outcome(Engine.load(model, { ...(/^(https?:|\/)/.test(model) ? {} : { hubUrl: location.origin }), ...options, onProgress }));
    const text = engine ? await proof(engine) : "";
    const { cache: report, sha256, backend, weights } = engine?.info ?? {};
    await engine?.dispose();
    return { ...end, text, report, sha256, backend, weights, notes: [...notes], kept: await cache.list() };
  }, model, options);
  console.log(`    ${model}: ${end.code ?? end.report?.state} ${end.message ?? end.report?.note ?? ""} in ${end.ms.toFixed(0)} ms`);
  return end;
}

/** @typedef {Awaited<ReturnType<typeof visit>>} Visit */

/**
 * @param {Visit} end
 * @param {string} state
 */
function assertLoaded(end, state) {
  assert.equal(end.code, undefined, end.message);
  assert.ok(end.text.startsWith(PROOF), end.text);
  assert.equal(end.report.state, state, end.report.note);
}

/** @param {import("puppeteer-core").Page} page */
async function reload(page) {
  await page.reload({ waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
}

test("a second visit to a hub's model asks for no weights, and for the rest only what revision it is", async (t) => {
  const { page, server } = await openClient(t, { ...HUB, backend: EITHER_BACKEND });
  const first = await visit(page, "me/tale");
  assertLoaded(first, "stored");
  assert.ok(weightBytes(server) > WEIGHTS_AT_LEAST);
  assert.equal(Object.keys(first.sha256).length, 3);
  assert.equal(first.kept.length, 1);
  const [{ name, complete, bytes, revision, weights }] = first.kept;
  assert.deepEqual({ name, complete, revision, weights }, { name: "me/tale", complete: true, revision: "0".repeat(40), weights: EITHER_BACKEND === "webgpu" ? "f8" : "i8" });
  assert.ok(bytes > 3_000_000, String(bytes));

  await reload(page);
  server.log.length = 0;
  const second = await visit(page, "me/tale");
  assertLoaded(second, "loaded");
  assert.deepEqual(second.sha256, first.sha256);
  const asked = server.log.map(({ path }) => path).filter((path) => path.includes("/me/tale/"));
  assert.deepEqual(asked, ["/api/models/me/tale/revision/main?blobs=true"]);

  // Other settings are another entry; a new revision replaces the old one.
  assertLoaded(await visit(page, "me/tale", { weights: "checkpoint" }), "stored");
  server.options.commit = "1".repeat(40);
  const renewed = await visit(page, "me/tale");
  assertLoaded(renewed, "stored");
  assert.equal(renewed.kept.length, 2);
  assertLoaded(await visit(page, "me/tale"), "loaded");
});

test("a model on a plain server is asked for by HEAD, and not at all without a network", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto", expectErrors: [/404|INTERNET_DISCONNECTED|ERR_FAILED/] });
  assertLoaded(await visit(page, "/models/tale/"), "stored");
  await reload(page);
  server.log.length = 0;
  assertLoaded(await visit(page, "/models/tale/"), "loaded");
  const asked = server.log.filter(({ path }) => path.startsWith("/models/tale/"));
  assert.ok(asked.length >= 8 && asked.every(({ method, bytes }) => method === "HEAD" && bytes === 0), JSON.stringify(asked));

  // The page's own files still come; the model's server is gone.
  await useWorker(page, "/pages/offline-worker.js");
  server.log.length = 0;
  assertLoaded(await visit(page, "/models/tale/"), "loaded");
  assert.deepEqual(server.log.filter(({ path }) => path.startsWith("/models/tale/")), []);
  const gone = await visit(page, "/models/case/");
  assert.equal(gone.code, "network");
});

test("what the processor kept is replaced in the load that takes another form, and taken where it is the same", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto", expectErrors: [/INTERNET_DISCONNECTED|ERR_FAILED/] });
  const model = "/models/tale/";
  const inspect = (/** @type {string} */ backend) => page.evaluate(async (backend, model) => {
    const { kept, weights } = await /** @type {any} */ (globalThis).bise.inspect(model, { backend });
    return { kept, weights };
  }, backend, model);
  const onCpu = await visit(page, model, { backend: "cpu" });
  assertLoaded(onCpu, "stored");
  assert.deepEqual([onCpu.backend, onCpu.weights, onCpu.kept.map((/** @type {any} */ { weights }) => weights)], ["cpu", "i8", ["i8"]]);
  // Looked at with the form that each load would take.
  assert.deepEqual(await inspect("cpu"), { kept: true, weights: "i8" });
  assert.deepEqual(await inspect("webgpu"), { kept: false, weights: "f8" });

  // While nothing comes, what there is stays.
  await useWorker(page, "/pages/offline-worker.js");
  const refused = await visit(page, model, { backend: "webgpu", network: { attempts: 1 } });
  assert.equal(refused.code, "network", refused.message);
  await useWorker(page, null);
  assertLoaded(await visit(page, model, { backend: "cpu" }), "loaded");

  server.log.length = 0;
  const onGpu = await visit(page, model, { backend: "webgpu" });
  assertLoaded(onGpu, "stored");
  assert.deepEqual([onGpu.backend, onGpu.kept.map((/** @type {any} */ { weights }) => weights)], ["webgpu", ["f8"]]);

  // And that serves both: nothing more is fetched.
  server.log.length = 0;
  for (const backend of ["webgpu", "cpu"]) {
    assert.deepEqual(await inspect(backend), { kept: true, weights: "f8" });
    const again = await visit(page, model, { backend });
    assertLoaded(again, "loaded");
    assert.deepEqual([again.backend, again.weights], [backend, "f8"]);
  }
  assert.equal(weightBytes(server), 0);
});

test("cache: false keeps nothing, and files are not kept", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto" });
  const off = await visit(page, "/models/tale/", { cache: false });
  assertLoaded(off, "off");
  assert.deepEqual([off.kept, off.report.note], [[], null]);
  const root = await page.evaluate(async () => {
    const names = /** @type {any} */ (await navigator.storage.getDirectory()).keys();
    const found = [];
    for await (const name of names) found.push(name);
    return found;
  });
  assert.deepEqual(root, []);
  server.log.length = 0;
  assertLoaded(await visit(page, "/models/tale/", { cache: false }), "off");
  const again = weightBytes(server);
  // Chromium's HTTP cache keeps ranges that the server lets it keep.
  if (browserName() === "chromium") assert.equal(again, 0);
  else assert.ok(again > WEIGHTS_AT_LEAST, "Firefox keeps ranges by now: README may say so");
});

test("damage on the way is an integrity error that names the file, and is not kept", async (t) => {
  const { page, server } = await openClient(t, { ...HUB, backend: "auto" });
  const damaged = `${server.url}/fault/damage~1/model-00002-of-00003.safetensors/me/tale/resolve/main/`;
  // The first request for the file is for its header; the fault strikes behind that.
  const bad = await visit(page, damaged.replace("~1", ""));
  assert.equal(bad.code, "integrity", bad.message);
  assert.match(bad.message ?? "", /model-00002-of-00003\.safetensors.*[0-9a-f]{64}.*[0-9a-f]{64}/);
  assert.deepEqual(bad.kept, []);
  // Negative control: where nothing tells the hash, the same bit goes through.
  const unknown = await visit(page, `${server.url}/fault/damage/model-00002-of-00003.safetensors/models/tale/`);
  assert.equal(unknown.code, undefined, unknown.message);
  const right = (await visit(page, "me/tale")).sha256;
  assert.notDeepEqual(unknown.sha256, right);
  // An own manifest catches it there, too.
  const checked = await visit(page, `${server.url}/fault/damage/model-00002-of-00003.safetensors/models/tale/`, { integrity: right, cache: false });
  assert.equal(checked.code, "integrity", checked.message);
  assertLoaded(await visit(page, "/models/tale/", { integrity: right }), "stored");
});

test("what was downloaded first is what later downloads must be", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto" });
  // A path that no fault strikes, but of which the browser's own cache keeps nothing.
  const model = "/fault/nohead/none/models/tale/";
  assertLoaded(await visit(page, model), "stored");
  // Deleted, and fetched again from a server that sends another content under the same ETag.
  await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
  server.options.damage = "model-00003-of-00003.safetensors";
  const other = await visit(page, model);
  assert.equal(other.code, "integrity", other.message);
  assert.match(other.message ?? "", /model-00003-of-00003\.safetensors.*first downloaded/);
  delete server.options.damage;
  assertLoaded(await visit(page, model), "stored");
});

// A load on WebGPU takes longer here.
for (const [backend, weights, seeds] of /** @type {const} */ ([["webgpu", "f8", [1, 3]], ["cpu", "i8", [2, 4, 5, 6]]])) test(`bits that flip in the cache are mended, on ${backend}`, async (t) => {
  const { page, server } = await openClient(t, { ...HUB, backend });
  const first = await visit(page, "me/tale");
  assertLoaded(first, "stored");
  assert.deepEqual([first.backend, first.weights], [backend, weights]);
  for (const seed of seeds) {
    const flipped = await page.evaluate(async (seed) => {
      const store = await (await navigator.storage.getDirectory()).getDirectoryHandle("bise-cache");
      for await (const directory of /** @type {any} */ (store).values()) {
        if (directory.kind !== "directory") continue;
        const handle = await directory.getFileHandle(seed % 3 === 0 ? "journal" : "weights");
        const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
        const at = Math.floor(bytes.length * ((seed * 0.618034) % 1));
        bytes[at] = (bytes[at] ?? 0) ^ (1 << seed % 8);
        const writable = await handle.createWritable();
        await writable.write(bytes);
        await writable.close();
        return `byte ${at} of ${bytes.length} of ${handle.name}`;
      }
      return null;
    }, seed);
    assert.ok(flipped);
    const mended = await visit(page, "me/tale");
    assert.notEqual(mended.report.state, "loaded", `${flipped} was not seen`);
    assertLoaded(mended, mended.report.state);
    assertLoaded(await visit(page, "me/tale"), "loaded");
  }
  assert.ok(server.log.length > 0);
});

test("a kept model outlives a server that will not say which revision it has", async (t) => {
  const { page, server } = await openClient(t, { ...HUB, backend: "auto", expectErrors: [/40[1345]|503/] });
  const stored = await visit(page, "me/tale");
  assertLoaded(stored, "stored");
  for (const status of [401, 403, 404, 405, 503]) {
    server.options.refuse = (path) => (/\/(api|resolve)\//.test(path) ? status : undefined);
    server.log.length = 0;
    const end = await visit(page, "me/tale", { network: { attempts: 2, backoffMs: 10 } });
    assertLoaded(end, "loaded");
    assert.deepEqual(end.kept.map((/** @type {any} */ { bytes }) => bytes), stored.kept.map((/** @type {any} */ { bytes }) => bytes));
    assert.equal(server.log.filter(({ path }) => path.startsWith("/api/")).length, status === 503 ? 2 : 1, `${status}`);
  }
});

test("one that was stored while the hub was silent stays when it answers, and what is secret in a URL is nowhere", async (t) => {
  const { page, server, url } = await openClient(t, { ...HUB, backend: "auto", expectErrors: [/503/] });
  server.options.refuse = (path) => (path.startsWith("/api/") ? 503 : undefined);
  assertLoaded(await visit(page, "me/tale", { network: { attempts: 1 } }), "stored");
  server.options.refuse = undefined;
  const end = await visit(page, "me/tale");
  assertLoaded(end, "loaded");
  assert.match(end.kept[0].revision, /^0{40}$/);

  const signed = await visit(page, `${url}/models/case/?signature=topsecret`);
  assert.equal(signed.report.state, "stored", signed.message);
  assert.ok(!JSON.stringify(signed.kept).includes("topsecret"), JSON.stringify(signed.kept));
  assert.ok(server.log.some(({ path }) => path.includes("topsecret")), "it was sent");
});

test("two tabs load one model at once: the second waits, and then asks for no weights", async (t) => {
  const { page, server, url } = await openClient(t, { ...HUB, backend: "auto", bytesPerSecond: 6_000_000 });
  const other = await page.browserContext().newPage();
  await other.goto(`${url}/pages/client.html?backend=auto`, { waitUntil: "load" });
  await other.waitForFunction("globalThis.bise !== undefined");
  server.log.length = 0;
  const ends = await Promise.all([visit(page, "me/tale"), visit(other, "me/tale")]);
  assert.deepEqual(ends.map(({ report }) => report.state).sort(), ["loaded", "stored"]);
  for (const end of ends) assert.ok(end.text.startsWith(PROOF));
  const waited = ends.find(({ report }) => report.state === "loaded");
  assert.ok(waited?.notes.some((/** @type {string} */ note) => note.includes("another tab")), JSON.stringify(waited?.notes));
  assert.ok(weightBytes(server) < 1.2 * 6_600_000, `${weightBytes(server)} bytes: once`);

  // The one that waits can be stopped, and nothing is deleted under the one that loads.
  await page.evaluate(() => /** @type {any} */ (globalThis).bise.cache.clear());
  const model = "me/tale@other"; // of which the browser's own cache has nothing
  server.log.length = 0;
  const loading = visit(page, model);
  while (weightBytes(server) === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  const stopped = await other.evaluate(async (model) => {
    const { Engine, outcome, cache } = /** @type {any} */ (globalThis).bise;
    const controller = new AbortController();
    const waiting = outcome(Engine.load(model, { hubUrl: location.origin, signal: controller.signal }));
    setTimeout(() => controller.abort(), 300);
    const cleared = await outcome(cache.clear());
    return { waiting: await waiting, cleared };
  }, model);
  assert.equal(stopped.waiting.code, "aborted");
  assert.equal(stopped.cleared.code, "bad-request");
  assertLoaded(await loading, "stored");
  await other.close();
});

test("an aborted load, a worker that ends and a page that goes leave nothing that hinders the next", async (t) => {
  const { page } = await openClient(t, { ...HUB, backend: "webgpu", bytesPerSecond: 6_000_000 });
  const aborted = await page.evaluate(async () => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    return outcome(Engine.load("me/tale", { hubUrl: location.origin, signal: AbortSignal.timeout(700) }));
  });
  assert.equal(aborted.code, "aborted");
  await page.evaluate(() => {
    const Original = globalThis.Worker;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} script @param {WorkerOptions} [options] */
      constructor(script, options) {
        super(script, options);
        setTimeout(() => this.terminate(), 900);
      }
    };
    void /** @type {any} */ (globalThis).bise.Engine.load("me/tale", { hubUrl: location.origin });
  });
  await new Promise((resolve) => setTimeout(resolve, 1200));
  await reload(page);
  await page.evaluate(() => void /** @type {any} */ (globalThis).bise.Engine.load("me/tale", { hubUrl: location.origin }));
  await new Promise((resolve) => setTimeout(resolve, 700));
  await reload(page);
  const end = await visit(page, "me/tale");
  assertLoaded(end, end.report.state);
  assert.notEqual(end.report.state, "off");
  assert.equal(end.backend, "webgpu");
  assertLoaded(await visit(page, "me/tale"), "loaded");
});

test("too little space: loaded without being kept, and said so", async (t) => {
  const { page } = await openClient(t, { ...HUB, backend: "auto" });
  for (const [space, said] of /** @type {const} */ ([["left=1000000", /too little space/], ["room=2000000", /too little space.*full/]])) {
    await useWorker(page, `/pages/tight-worker.js?${space}`);
    const end = await visit(page, "me/tale");
    assertLoaded(end, "off");
    assert.match(end.report.note, said);
    assert.ok(end.notes.some((/** @type {string} */ note) => said.test(note)), "progress says so, too");
    assert.deepEqual(end.kept, [], "nothing half");
  }
  await useWorker(page, null);
  assertLoaded(await visit(page, "me/tale"), "stored");
});

// Firefox lets nobody set a quota.
if (browserName() === "chromium") {
  test("the browser's own quota is kept to", async (t) => {
    const { page } = await openClient(t, { ...HUB, backend: "auto" });
    const session = await page.createCDPSession();
    const { origin } = new URL(page.url());
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1_500_000 });
    const tight = await visit(page, "me/tale");
    assertLoaded(tight, "off");
    assert.match(tight.report.note, /too little space/);
    assert.deepEqual(tight.kept, []);
    // What the browser says is left is more than there is: it fails in the middle.
    await useWorker(page, "/pages/tight-worker.js?left=1000000000");
    const middle = await visit(page, "me/tale");
    assertLoaded(middle, "off");
    assert.match(middle.report.note, /too little space/);
    assert.deepEqual(middle.kept, []);
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1e9 });
    await useWorker(page, null);
    assertLoaded(await visit(page, "me/tale"), "stored");
  });
}
