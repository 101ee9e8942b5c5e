// Every place that a model may come from, and a device without room for it.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

/**
 * Loads a model in the page, lets it prove itself, and disposes of it.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model JavaScript that gives the model
 * @param {object} [options]
 */
async function tryLoad(page, model, options = {}) {
  const end = await page.evaluate(async (model, options) => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const given = /** @type {any} */ ({ weights: "checkpoint", ...options });
    if (given.headers) given.headers = new Headers(given.headers);
    const { value: engine, ...end } = await outcome(Engine.load(await (0, eval)(model), given));
    const text = engine ? await proof(engine) : "";
    const { software } = engine?.info.adapter ?? {};
    await engine?.dispose();
    return { ...end, text, software };
  }, model, options);
  console.log(`    ${model}: ${end.code ?? "loaded"} ${end.message ?? ""} in ${end.ms.toFixed(0)} ms`);
  return end;
}

/** @param {{ code?: string, message?: string, text: string }} end */
const loaded = (end) => assert.ok(end.text.startsWith(TALE_PROOF.slice(0, 10)), JSON.stringify(end));

test("files and folders of this computer", async (t) => {
  const { page } = await openClient(t, { backend: "auto" });
  await page.evaluate(async () => {
    const names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
      ...[1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`)];
    const files = await Promise.all(names.map(async (name) => new File([await (await fetch(`/models/tale/${name}`)).blob()], name)));
    // The browser's own file system gives handles like those of a picked folder.
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("tale", { create: true });
    for (const file of files) {
      const writable = await (await folder.getFileHandle(file.name, { create: true })).createWritable();
      await writable.write(file);
      await writable.close();
    }
    Object.assign(globalThis, { files, folder });
  });

  const missing = await tryLoad(page, "files.filter(({ name }) => !name.includes('00002'))");
  assert.equal(missing.code, "bad-checkpoint");
  assert.match(missing.message ?? "", /model-00002-of-00003/);
  const unconfigured = await tryLoad(page, "files.slice(1)");
  assert.equal(unconfigured.code, "bad-checkpoint");
  assert.match(unconfigured.message ?? "", /config\.json/);
  loaded(await tryLoad(page, "files"));
  loaded(await tryLoad(page, "folder"));
});

test("a hub and the package itself on another origin", async (t) => {
  const other = await startServer({ root: fromTop("target/site"), cors: true, hub: { "me/tale": MODELS.tale } });
  t.after(other.close);
  const { page } = await openClient(t, { backend: "auto", expectErrors: [/404/] });
  await page.evaluate(async (packageUrl) => {
    const { bise } = /** @type {any} */ (globalThis);
    Object.assign(bise, await import(packageUrl));
  }, `${other.url}/pkg/index.js`);
  const options = { hubUrl: other.url, headers: { Authorization: "Bearer x" } };

  const nobody = await tryLoad(page, "'me/nobody'", options);
  assert.equal(nobody.code, "bad-checkpoint");
  assert.match(nobody.message ?? "", /config\.json/);
  const asked = other.log.filter(({ path }) => path.includes("/resolve/"));
  assert.deepEqual(new Set(asked.map(({ path }) => path.split("/").slice(0, 5).join("/"))), new Set(["/me/nobody/resolve/main"]));

  other.log.length = 0;
  loaded(await tryLoad(page, "'me/tale@v1'", options));
  const got = other.log.filter(({ path, method }) => path.startsWith("/me/") && method === "GET");
  assert.ok(got.some(({ path }) => path === "/me/tale/resolve/v1/model-00003-of-00003.safetensors"), JSON.stringify(got));
  assert.ok(got.every(({ path, authorization }) => path.startsWith("/me/tale/resolve/v1/") && authorization === "Bearer x"), JSON.stringify(got));
  assert.ok(other.log.some(({ path }) => path === "/pkg/wasm/bise_bg.wasm"), "the other origin's package");
});

test("other formats are refused by name, wherever they lie", async (t) => {
  const made = mkdtempSync(join(tmpdir(), "bise-foreign-"));
  t.after(() => rmSync(made, { recursive: true }));
  const hub = /** @type {Record<string, string>} */ ({});
  for (const [name, files] of Object.entries({ "me/gguf": ["tale.Q8_0.gguf", "README.md"], "me/torch": ["config.json", "pytorch_model.bin"] })) {
    hub[name] = join(made, name);
    mkdirSync(hub[name], { recursive: true });
    for (const file of files) writeFileSync(join(hub[name], file), file === "config.json" ? readFileSync(join(MODELS.tale, file)) : "x");
  }
  const other = await startServer({ root: made, cors: true, hub });
  t.after(other.close);
  const { page } = await openClient(t, { backend: "auto", mounts: { "/torch/": hub["me/torch"] ?? "" }, expectErrors: [/404/] });
  await page.evaluate(async () => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("foreign", { create: true });
    for (const name of ["params.json", "consolidated.safetensors"]) await folder.getFileHandle(name, { create: true });
    Object.assign(globalThis, { folder, files: [new File(["x"], "model-00001-of-00002.safetensors"), new File(["x"], "model.ggml.gguf")] });
  });
  for (const [model, options, message] of /** @type {[string, object, RegExp][]} */ ([
    ["'me/gguf'", { hubUrl: other.url, token: "hf_secret" }, /tale\.Q8_0\.gguf: GGUF.*converted from/],
    ["'me/torch'", { hubUrl: other.url }, /pytorch_model\.bin: PyTorch.*save_pretrained/],
    ["'/torch/'", {}, /pytorch_model\.bin: PyTorch/], // a server that lists nothing is asked for the names in use
    ["folder", {}, /(consolidated\.safetensors|params\.json): Mistral's own layout/],
    ["files", {}, /model-00001-of-00002\.safetensors: shards without their index/],
  ])) {
    const end = await tryLoad(page, model, options);
    assert.equal(end.code, "unsupported-model", JSON.stringify(end));
    assert.match(end.message ?? "", message);
    assert.ok(!end.message?.includes("secret"));
  }
  const listings = other.log.filter(({ path, method }) => method === "GET" && path.startsWith("/api/models/"));
  // Asked for the revision, and for the names once there were no weights.
  const sent = (/** @type {string} */ name) => new Set(listings.filter(({ path }) => path.includes(name)).map(({ authorization }) => authorization));
  assert.deepEqual([sent("me/gguf"), sent("me/torch")], [new Set(["Bearer hf_secret"]), new Set([null])]);
});

test("a token goes to the hub and to nobody else", async (t) => {
  const other = await startServer({ root: fromTop("target/site"), cors: true, hub: { "me/tale": MODELS.tale } });
  t.after(other.close);
  const { page, server } = await openClient(t, { backend: "auto" });
  loaded(await tryLoad(page, "'me/tale'", { hubUrl: other.url, token: "hf_secret" }));
  const asked = other.log.filter(({ method }) => method === "GET");
  assert.ok(asked.length > 5 && asked.every(({ authorization }) => authorization === "Bearer hf_secret"), JSON.stringify(asked));
  // A recipe that names the hub's model and one elsewhere: only the former is asked with it.
  other.log.length = 0;
  const recipe = `merge_method: linear\nmodels:\n  - {model: me/tale@v2, parameters: {weight: 0.5}}\n  - {model: ${server.url}/models/case/, parameters: {weight: 0.5}}\ndtype: bfloat16\n`;
  const merged = await tryLoad(page, `({ recipe: ${JSON.stringify(recipe)} })`, { hubUrl: other.url, token: "hf_secret" });
  assert.equal(merged.code, undefined, merged.message);
  const [there, here] = [other.log, server.log].map((log) => log.filter(({ path, method }) => method === "GET" && path.endsWith(".safetensors")));
  assert.ok(there?.length && there.every(({ authorization }) => authorization === "Bearer hf_secret"), JSON.stringify(there));
  assert.ok(here?.length && here.every(({ authorization }) => authorization === null), JSON.stringify(here));
  const refused = await tryLoad(page, "'/models/tale/'", { token: "hf_secret" });
  assert.equal(refused.code, "bad-request");
  assert.match(refused.message ?? "", /token.*hub/);
});

test("a device without room for the model says so, and room that comes back is used", async (t) => {
  const { page } = await openClient(t);
  await page.evaluate(() => {
    const Original = globalThis.Worker;
    let full = true;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} script @param {WorkerOptions} [options] */
      constructor(script, options) {
        super(full ? "/pages/full-worker.js" : script, options);
        full = false;
      }
    };
  });
  const full = await tryLoad(page, "'/models/tale/'");
  assert.equal(full.code, "out-of-memory");
  assert.match(full.message ?? "", /bytes|[MG]B/);
  const next = await tryLoad(page, "'/models/tale/'");
  loaded(next);
  assert.equal(next.software, true, "this adapter is one in software");
});
