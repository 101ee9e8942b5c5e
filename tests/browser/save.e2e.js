// Models saved as FP8 checkpoints, by the client and from the page.

import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { unpackTar } from "modern-tar";
import { openClient } from "./client.js";
import { savedDownload, tensorHashes } from "./downloads.js";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";
import { PROMPT, greedy, reply, send, shown } from "./merge_page.js";
import { fromTop } from "./paths.js";

/** Every tensor of tale as `bise export` writes it: `cargo test` holds the same hashes against its own. */
const HASHES = JSON.parse(readFileSync(fromTop("tests/fixtures/vectors/exported_tale.json"), "utf8")).tensor_sha256;
const FILES = ["README.md", "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
  "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];
const QUANTIZATION = {
  quant_method: "compressed-tensors",
  format: "naive-quantized",
  quantization_status: "compressed",
  config_groups: {
    group_0: {
      targets: ["Linear"],
      weights: { num_bits: 8, type: "float", symmetric: true, strategy: "channel", dynamic: false },
      input_activations: null,
      output_activations: null,
    },
  },
  ignore: ["lm_head"],
};
const TALE_BYTES = 6_296_448; // of its weights, without headers
/** A model that the server lacks. */
const MISSING = [/404/];

test("save() writes the native export's bits, which load as the same model", async (t) => {
  const { page, server } = await openClient(t, { backend: "auto", expectErrors: MISSING });
  await page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await page.waitForFunction("globalThis.merges !== undefined");
  const { report, progress } = await page.evaluate(async () => {
    const { bise: { save }, merges } = /** @type {any} */ (globalThis);
    /** @type {{ done: number, total: number }[]} */
    const progress = [];
    const report = await save("/models/tale/", { output: await merges.folder("saved"), onProgress: (/** @type {any} */ each) => progress.push(each) });
    return { report, progress };
  });
  // Each byte came once. Beside the data there are headers, and what of a first request was not needed at once.
  const fetched = server.log.filter(({ path }) => path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);
  assert.ok(fetched >= TALE_BYTES && fetched < 1.02 * TALE_BYTES, `${fetched} bytes of ${TALE_BYTES}`);
  const result = await page.evaluate(async (prompt) => {
    const { bise: { Engine, save, outcome }, merges } = /** @type {any} */ (globalThis);
    const said = async (/** @type {any} */ engine) => {
      const { choices: [choice] } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 24, ignore_eos: true, logprobs: 20 });
      return { ids: choice.token_ids, logprobs: choice.logprobs };
    };
    const output = await (await navigator.storage.getDirectory()).getDirectoryHandle("saved");
    const files = await merges.readAll(output);
    // The engine itself, and what it wrote, and that once more.
    const engine = await Engine.load("/models/tale/", { weights: "f8" });
    const [original, again] = [await said(engine), merges.memory()];
    await engine.save({ output: again.open });
    await engine.dispose();
    const loaded = await Engine.load(output, { weights: "checkpoint" });
    const [copy, twice] = [await said(loaded), merges.memory()];
    await loaded.save({ output: twice.open });
    await loaded.dispose();
    const unquantised = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const other = await said(unquantised);
    await unquantised.dispose();
    const bytes = async (/** @type {Map<string, Uint8Array<ArrayBuffer>>} */ map) => Object.fromEntries(
      await Promise.all([...map].map(async ([name, file]) => [name, [...new Uint8Array(await crypto.subtle.digest("SHA-256", file))].join()])),
    );
    const stopping = new AbortController();
    const stopped = await merges.folder("stopped");
    return {
      hashes: await merges.hashes(files), config: JSON.parse(new TextDecoder().decode(files.get("config.json"))),
      saved: await bytes(files), again: await bytes(again.files), twice: await bytes(twice.files), order: again.log.map((/** @type {any} */ { file }) => file),
      original, copy, other,
      aborted: await outcome(save("/models/tale/", { output: stopped, shardBytes: 5e5, signal: stopping.signal, onProgress: () => stopping.abort() })),
      left: [...(await merges.readAll(stopped)).keys()],
      full: await outcome(save("/models/tale/", { output })),
      missing: await outcome(save("/models/none/", { output: merges.memory().open })),
      unknown: await outcome(save("/models/tale/", { output: merges.memory().open, f8: true })),
      nowhere: await outcome(save("/models/tale/", {})),
    };
  }, PROMPT);
  assert.deepEqual(Object.keys(result.saved).sort(), FILES);
  assert.equal(Object.keys(HASHES).length, 57 + 42);
  assert.deepEqual(result.hashes, HASHES);
  assert.deepEqual(result.config.quantization_config, QUANTIZATION);
  // The same tokens from the same logits; without FP8 they are others.
  assert.deepEqual(result.copy, result.original);
  assert.notDeepEqual(result.other.logprobs, result.original.logprobs);
  // From the engine, and of the copy, byte for byte; what makes it a checkpoint comes last.
  assert.deepEqual(result.again, result.saved);
  assert.deepEqual(result.twice, result.saved);
  assert.deepEqual(result.order.slice(-2).sort(), ["config.json", "model.safetensors.index.json"]);
  assert.equal(report.totals.tensors, 57);
  assert.ok(report.tensors.every((/** @type {any} */ { method }) => method === "passthrough"));
  const last = progress.at(-1);
  assert.ok(last && last.done === last.total && last.total > 3e6, JSON.stringify(last));

  assert.equal(result.aborted.code, "aborted");
  assert.ok(!result.left.includes("config.json") && result.left.every((name) => !name.endsWith(".partial")), result.left.join());
  assert.deepEqual([result.full.code, /empty one/.test(result.full.message ?? "")], ["bad-request", true], result.full.message);
  assert.equal(result.missing.code, "bad-checkpoint", result.missing.message);
  assert.match(result.missing.message ?? "", /models\/none\/.*config\.json/);
  assert.match(result.unknown.message ?? "", /save options: there is no "f8"/);
  assert.match(result.nowhere.message ?? "", /output must be/);
});

test("what an engine saves is what it runs: merges by their recipe, the last one, and files", async (t) => {
  const { page } = await openClient(t, { backend: "auto" });
  await page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await page.waitForFunction("globalThis.merges !== undefined");
  const result = await page.evaluate(async () => {
    const { bise: { Engine, save, merge, proof }, merges } = /** @type {any} */ (globalThis);
    const recipe = (/** @type {number} */ t) => `models: [{model: ./tale}, {model: ./case}]\nmerge_method: slerp\nbase_model: ./tale\nparameters: {t: ${t}}\ndtype: bfloat16\n`;
    const { models } = merges;
    const engine = await Engine.load({ recipe: recipe(0.3), models }, { weights: "f8" });
    const first = merges.memory();
    await engine.save({ output: first.open });
    await engine.replaceWeights({ recipe: recipe(0.8), models });
    const second = merges.memory();
    await engine.save({ output: second.open });
    const said = await proof(engine);
    await engine.dispose();
    // The same by other ways.
    const [merged, saved] = [merges.memory(), merges.memory()];
    await merge(recipe(0.3), { models, output: merged.open, f8: true });
    await save({ recipe: recipe(0.8), models }, { output: saved.open });
    // A list of files that can be read only once, and files of an FP8 checkpoint.
    const files = [...second.files].map(([name, bytes]) => new File([bytes], name));
    const of = function* () { yield* files; };
    const loaded = await Engine.load(of());
    const third = merges.memory();
    await loaded.save({ output: third.open });
    const again = await proof(loaded);
    await loaded.dispose();
    const [a, b, c, d, e] = await Promise.all([first, second, merged, saved, third].map(({ files }) => merges.hashes(files)));
    const text = (/** @type {any} */ { files }) => new TextDecoder().decode(files.get("mergekit_config.yml"));
    return { a, b, c, d, e, recipes: [first, second, third].map(text), wanted: [recipe(0.3), recipe(0.8), recipe(0.8)], said, again };
  });
  assert.deepEqual(result.a, result.c);
  assert.deepEqual(result.b, result.d);
  assert.deepEqual(result.b, result.e);
  assert.notDeepEqual(result.a, result.b);
  assert.deepEqual(result.recipes, result.wanted);
  assert.equal(result.again, result.said);
});

/**
 * Waits until a model is in the chat, and its panel is open.
 * @param {import("puppeteer-core").Page} page
 * @param {string} name
 */
async function loaded(page, name) {
  await page.waitForFunction((name) => document.querySelector("#model-name")?.textContent === name, {}, name);
  await page.$eval("#models-panel", (panel) => panel.setAttribute("open", ""));
  await shown(page, "#save-start");
}

/**
 * Saves what the chat runs.
 * @param {import("puppeteer-core").Page} page
 * @param {"folder" | "download" | "storage"} place
 */
async function saveInto(page, place) {
  await page.select("#save-to", place);
  await page.click("#save-start");
  await page.waitForFunction(() => document.querySelector("#save-done")?.textContent || document.querySelector("#message:not([hidden])"));
  assert.equal(await page.$eval("#message", (node) => node.textContent), "");
  return page.$eval("#save-done p", (node) => node.textContent ?? "");
}

test("the page saves the model of its chat, and chats with what it saved", async (t) => {
  const { page, url, screenshot } = await openPage(t, "/pages/blank.html", { width: 1280, height: 900 });
  // No test can answer the browser's own dialog: the folder behind it is one of the origin's storage.
  await page.evaluateOnNewDocument(() => {
    Object.assign(globalThis, { showDirectoryPicker: async () => (await navigator.storage.getDirectory()).getDirectoryHandle("picked", { create: true }) });
  });
  await page.goto(`${url}/`);
  await loaded(page, "tale");
  await greedy(page, 12);
  await send(page, PROMPT);
  const said = await reply(page);
  assert.equal(await page.$eval("#save-title", (node) => node.textContent), "Save tale");
  assert.deepEqual(await page.$$eval("#save-to option", (all) => all.map((each) => /** @type {HTMLOptionElement} */ (each).value)), ["folder", "download", "storage"]);
  await screenshot("save-before");
  assert.equal(await saveInto(page, "folder"), "Saved as the folder “picked/tale-FP8”.");
  assert.equal(await saveInto(page, "storage"), "Saved as “tale-FP8” in this browser’s storage.");
  await page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await page.waitForFunction("globalThis.merges !== undefined");
  const hashes = await page.evaluate(async () => {
    const { merges } = /** @type {any} */ (globalThis);
    const root = await navigator.storage.getDirectory();
    const read = async (/** @type {string} */ name) => merges.hashes(await merges.readAll(await (await root.getDirectoryHandle(name)).getDirectoryHandle("tale-FP8")));
    return [await read("picked"), await read("merges")];
  });
  assert.deepEqual(hashes, [HASHES, HASHES]);
  for (const [size, width, height] of /** @type {[string, number, number][]} */ ([["desktop", 1280, 900], ["phone", 390, 844], ["narrow", 320, 640]])) {
    await page.setViewport({ width, height });
    await page.$eval("#save-done", (node) => node.scrollIntoView({ block: "end" }));
    for (const scheme of browserName() === "chromium" ? ["dark", "light"] : ["light"]) {
      if (browserName() === "chromium") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await screenshot(`save-${size}-${scheme}`);
    }
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, size);
  }
  await page.setViewport({ width: 1280, height: 900 });

  // Where its files are, and what becomes of them.
  await page.click("#save-done button");
  await shown(page, "#stored-list summary");
  await page.$eval("#stored-list button", (found) => /** @type {HTMLElement} */ (found).click());
  await loaded(page, "tale-FP8");
  assert.equal(await page.$eval("#save-title", (node) => node.textContent), "Save tale-FP8");
  await send(page, PROMPT);
  assert.equal(await reply(page), said);
  // A loaded model, already FP8: the next name that is free.
  assert.equal(await saveInto(page, "storage"), "Saved as “tale-FP8-2” in this browser’s storage.");

  // Stopped at the first progress, nothing is left.
  await page.evaluate(() => {
    new MutationObserver((_, observer) => {
      observer.disconnect();
      document.getElementById("save-stop")?.click();
    }).observe(/** @type {Node} */ (document.querySelector("#save-line")), { childList: true });
  });
  await page.click("#save-start");
  await page.waitForFunction(() => document.querySelector("#save-done")?.textContent === "Stopped: nothing of it was kept.");
  // What does not fit is refused before it is written.
  await page.evaluate(() => { navigator.storage.estimate = async () => ({ quota: 3_000_000, usage: 1_000_000 }); });
  await page.click("#save-start");
  await shown(page, "#message");
  assert.match(await page.$eval("#message", (node) => node.textContent ?? ""), /^No room left.*needs 4\.0 MB.*only 2\.0 MB left/);
  assert.deepEqual(await page.evaluate(async () => {
    const names = [];
    for await (const name of /** @type {any} */ (await (await navigator.storage.getDirectory()).getDirectoryHandle("merges")).keys()) names.push(name);
    return names.sort();
  }), ["tale-FP8", "tale-FP8-2"]);
});

test("the page's blend is saved as the slider has it, as one download", async (t) => {
  const { page, downloads } = await openPage(t, "/");
  const name = "tale-x-case-FP8.tar";
  t.after(() => rmSync(join(downloads, name), { force: true }));
  await loaded(page, "tale");
  await page.click('[data-name="tale × case"]');
  await loaded(page, "tale × case");
  await shown(page, "#blend");
  await page.$eval("#blend-t", (node) => {
    const slider = /** @type {HTMLInputElement} */ (node);
    slider.value = "0";
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await greedy(page, 8);
  await page.waitForFunction(() => document.querySelector("#blend-value")?.textContent === "t 0.00");
  await send(page, PROMPT);
  await reply(page);
  assert.equal(await saveInto(page, "download"), `Saved as “${name}” among your downloads.`);
  const files = new Map((await unpackTar(await savedDownload(downloads, name), { strict: true })).map(({ header, data }) => [header.name, data ?? new Uint8Array()]));
  assert.equal([...files.keys()].at(-1), "tale-x-case-FP8/config.json");
  const weights = [...files].filter(([file]) => file.endsWith(".safetensors")).map(([, bytes]) => tensorHashes(bytes));
  // At t = 0 the blend is tale.
  assert.deepEqual(Object.assign({}, ...weights), HASHES);
});
