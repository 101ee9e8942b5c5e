// Before a large model is fetched, the page says what it is and takes: inspect, the card, the token, and drops.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { openClient } from "./client.js";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";
import { MODELS } from "./paths.js";
import { SPARSE, writeSparse } from "./sparse.js";

const folder = mkdtempSync(join(tmpdir(), "bise-sparse-"));
writeSparse(folder);
test.after(() => rmSync(folder, { recursive: true }));
const mounts = { "/seven/": folder };

/** Bytes of weight files that were sent. @param {{ log: import("./server.js").Logged[] }} server */
const fetched = (server) => server.log.filter(({ path }) => path.startsWith("/seven/") && path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);

/** Two headers, and what comes along with them. */
const HEADERS = 2 * (256 << 10);

/** @param {import("puppeteer-core").Page} page @param {string} name */
const ready = (page, name) => page.waitForFunction((name) => document.querySelector("#model-name")?.textContent === name && document.querySelector("#prompt")?.matches(":enabled"), {}, name);

test("inspect tells what a 7B checkpoint takes, from its headers", async (t) => {
  const { page, server } = await openClient(t, { mounts });
  const [told, longer, kept, merge] = await page.evaluate(async () => {
    const { inspect, outcome } = /** @type {any} */ (globalThis).bise;
    return [
      await inspect("/seven/", { backend: "webgpu" }), await inspect("/seven/", { backend: "webgpu", contextLength: 8192 }), await inspect("/models/tale/", { weights: "checkpoint" }),
      await outcome(inspect({ recipe: "x" })),
    ];
  });
  assert.equal(told.parameters, SPARSE.parameters);
  assert.equal(told.downloadBytes, SPARSE.bytes);
  assert.deepEqual([told.architecture, told.dtype, told.scales, told.files, told.layers], ["mistral", "F8_E4M3", "one scale per row", 2, 32]);
  assert.deepEqual([told.contextLength, told.maxContextLength, told.slidingWindow], [4096, 32768, 4096]);
  // Weights as in the file but for norms, which become F32, and padding.
  assert.ok(told.memory.weights >= SPARSE.bytes && told.memory.weights < SPARSE.bytes * 1.001, `${told.memory.weights}`);
  assert.equal(told.memory.kvCache, 32 * 4096 * 1024 * 2 * 2);
  assert.equal(told.memory.total, told.memory.weights + told.memory.kvCache + told.memory.activations);
  // A window of 4096: the cache rolls, and grows by one batch only.
  assert.ok(longer.memory.kvCache > told.memory.kvCache && longer.memory.kvCache <= 32 * (4096 + 256) * 1024 * 2 * 2);
  assert.deepEqual(told.contexts.map((/** @type {any} */ each) => each.contextLength), [1024, 2048, 4096, 8192, 16384, 32768]);
  assert.ok(told.adapter.software && told.adapter.maxBindingBytes >= 128 << 20);
  assert.deepEqual(told.problems, []);
  assert.ok(told.storage === null || told.storage.freeBytes > 0);
  assert.deepEqual([kept.tensors, kept.dtype, kept.scales, kept.chat, kept.tokenizer], [{ BF16: 57 }, "BF16", null, true, true]);
  assert.equal(merge.code, "bad-request");
  assert.ok(fetched(server) <= 2 * HEADERS, `${fetched(server)} bytes for two inspections`);
});

test("a large model is asked about before it is fetched, and small ones are not", async (t) => {
  const { page, server, screenshot } = await openPage(t, "/?backend=webgpu", { mounts });
  await ready(page, "tale");
  const address = async (/** @type {string} */ text) => {
    await page.$eval("#models-panel", (panel) => panel.setAttribute("open", ""));
    await page.$eval("#model-address", (input) => { /** @type {HTMLInputElement} */ (input).value = ""; });
    await page.focus("#model-address");
    await page.keyboard.type(text);
    await page.keyboard.press("Enter");
  };
  const facts = () => page.$$eval("#confirm-facts li", (all) => all.map(({ textContent }) => textContent ?? ""));

  await address("/seven/");
  await page.waitForSelector("#confirm:not([hidden])");
  const first = await facts();
  assert.match(first[0] ?? "", /^7\.2 billion weights, FP8: mistral, 32 layers, one scale per row$/);
  assert.match(first[1] ?? "", /^7\.5\d GB to download: 2 files$/);
  assert.match(first[2] ?? "", /^8\.\d\d GB of GPU memory: 7\.5\d GB for weights, 537 MB for 4096 positions, \d+ MB for the rest$/);
  assert.equal(await page.$eval("#confirm-title", (title) => title === document.activeElement), true);
  assert.equal(await page.$eval("#prompt", (prompt) => prompt.matches(":enabled")), true, "what is loaded stays until the answer");
  await page.select("#confirm-context", "1024");
  assert.match((await facts())[2] ?? "", /134 MB for 1024 positions/);

  for (const [name, width, height] of /** @type {[string, number, number][]} */ ([["desktop", 1200, 800], ["phone", 390, 844]])) {
    await page.setViewport({ width, height });
    for (const scheme of ["light", "dark"]) {
      if (browserName() === "firefox" && scheme === "dark") continue;
      if (browserName() !== "firefox") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.$eval("#confirm", (card) => card.scrollIntoView({ block: "nearest" }));
      await screenshot(`confirm-${name}-${scheme}`);
    }
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, name);
  }
  await page.setViewport({ width: 1200, height: 800 });

  // No, by button and by key: nothing was fetched, and the old model goes on.
  await page.click("#confirm-cancel");
  await page.waitForSelector("#confirm[hidden]");
  assert.equal(await page.$eval("#model-name", (node) => node.textContent), "tale");
  await address("/seven/");
  await page.waitForSelector("#confirm:not([hidden])");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#confirm[hidden]");
  assert.ok(fetched(server) <= 2 * HEADERS, `${fetched(server)} bytes of weights`);
  assert.equal(await page.$eval("#message", (node) => node.matches("[hidden]")), true);

  // Small enough to be loaded without a question.
  await address("/models/case/");
  await ready(page, "/models/case/");
  assert.equal(await page.$eval("#confirm", (node) => node.matches("[hidden]")), true);
});

test("a model that the processor's memory does not hold is not fetched, and WebGPU is offered for it", async (t) => {
  const { page, server, screenshot } = await openPage(t, "/", { mounts });
  await ready(page, "tale");
  await page.$eval("#models-panel", (panel) => panel.setAttribute("open", ""));
  await page.focus("#model-address");
  await page.keyboard.type("/seven/");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#confirm:not([hidden])");
  const card = () => page.$eval("#confirm", (node) => node.textContent ?? "");
  assert.match(await card(), /8\.\d\d GB of this tab’s memory.*The processor computes: the only WebGPU adapter here.*this model takes 8\d+ bytes of memory on the processor/s);
  assert.equal(await page.$eval("#confirm-load", (node) => node.matches(":disabled")), true);
  await screenshot("confirm-processor");
  await (await page.waitForSelector("#confirm-other ::-p-text(Use WebGPU)"))?.click();
  await page.waitForFunction(() => document.querySelector("#confirm-load")?.matches(":enabled"));
  assert.match(await card(), /8\.\d\d GB of GPU memory/);
  assert.equal(await page.$eval("#confirm-problems", (node) => node.matches("[hidden]")), true);
  await page.click("#confirm-cancel");
  assert.equal(await page.$eval("#model-name", (node) => node.textContent), "tale");
  assert.ok(fetched(server) <= 2 * HEADERS, `${fetched(server)} bytes of weights`);
});

test("a model that fits with a shorter context alone is loaded with that", async (t) => {
  const half = mkdtempSync(join(tmpdir(), "bise-sparse-"));
  t.after(() => rmSync(half, { recursive: true }));
  writeSparse(half, 16);
  const { page } = await openPage(t, "/?backend=cpu", { mounts: { "/half/": half } });
  await ready(page, "tale");
  await page.$eval("#models-panel", (panel) => panel.setAttribute("open", ""));
  await page.focus("#model-address");
  await page.keyboard.type("/half/");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#confirm:not([hidden])");
  const state = () => page.evaluate(() => ({
    lengths: [...document.querySelectorAll("#confirm-context option")].map((option) => option.getAttribute("value")),
    disabled: document.querySelector("#confirm-load")?.matches(":disabled"),
    problems: document.querySelector("#confirm-problems")?.matches(":not([hidden])"),
    facts: document.querySelector("#confirm-facts")?.textContent ?? "",
  }));
  const usual = await state();
  assert.deepEqual([usual.disabled, usual.problems], [true, true], JSON.stringify(usual));
  assert.equal(usual.lengths.at(-1), "4096", JSON.stringify(usual));
  await page.select("#confirm-context", "1024");
  const short = await state();
  assert.deepEqual([short.disabled, short.problems], [false, false], JSON.stringify(short));
  assert.match(short.facts, /1024 positions/);
  await page.select("#confirm-context", "4096");
  assert.deepEqual(await state(), usual);
});

test("a model that the device's limits do not hold cannot be loaded, and the card says why", async (t) => {
  const { page, url } = await openPage(t, "/pages/blank.html", { mounts });
  // An adapter whose bindings hold no row of the widest matrix.
  await page.evaluateOnNewDocument(() => {
    const Original = globalThis.Worker;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} script @param {WorkerOptions} [options] */
      constructor(script, options) {
        const blob = (/** @type {string} */ code) => URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
        const small = blob(`Object.defineProperty(GPUSupportedLimits.prototype, "maxStorageBufferBindingSize", { get: () => 12000 });`);
        super(blob(`import "${small}"; import "${script}";`), options);
      }
    };
  });
  await page.goto(`${url}/?backend=webgpu`);
  await ready(page, "tale"); // which fits even there, with a shorter context
  await page.$eval("#models-panel", (panel) => panel.setAttribute("open", ""));
  await page.focus("#model-address");
  await page.keyboard.type("/seven/");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#confirm:not([hidden])");
  const problems = await page.$eval("#confirm-problems", (node) => node.textContent ?? "");
  assert.match(problems, /a row of model\.layers\.0\.mlp\.down_proj\.weight needs 14336 bytes.*at most 12000/);
  assert.match(problems, /an activation needs \d+ bytes/);
  assert.equal(await page.$eval("#confirm-load", (node) => node.matches(":disabled")), true);
});

test("the token of the panel goes with the hub's models, and is kept nowhere", async (t) => {
  const { page } = await openPage(t, "/", { expectErrors: [/./] }); // there is no hub here
  await ready(page, "tale");
  await page.evaluate(() => {
    /** @type {any[]} */
    const sent = [];
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (/** @type {any} */ message, /** @type {any} */ ...rest) {
      if (message?.source) sent.push(message);
      return postMessage.call(this, message, ...rest);
    };
    Object.assign(globalThis, { sent });
  });
  await page.focus("#hub-token");
  await page.keyboard.type("hf_secret");
  await page.$eval("#model-address", (input) => { /** @type {HTMLInputElement} */ (input).value = "me/model"; });
  await page.focus("#model-address");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => /** @type {any} */ (globalThis).sent.length > 0);
  const [asked] = await page.evaluate(() => /** @type {any} */ (globalThis).sent);
  assert.deepEqual([asked.type, asked.source.base, asked.source.headers], ["inspect", "https://huggingface.co/me/model/resolve/main/", { Authorization: "Bearer hf_secret" }]);
  await page.waitForSelector("#message:not([hidden])");
  assert.ok(!(await page.evaluate(() => document.documentElement.textContent ?? "")).includes("secret"), "shown nowhere");
  const kept = await page.evaluate(async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, (await indexedDB.databases()).length, location.href]));
  assert.ok(!kept.includes("secret"), kept);
  assert.deepEqual(await page.$eval("#hub-token", (node) => [node.getAttribute("type"), node.getAttribute("autocomplete")]), ["password", "off"]);
  // An address is not the hub.
  await page.evaluate(() => { /** @type {any} */ (globalThis).sent.length = 0; });
  await page.$eval("#model-address", (input) => { /** @type {HTMLInputElement} */ (input).value = "/models/case/"; });
  await page.focus("#model-address");
  await page.keyboard.press("Enter");
  await ready(page, "/models/case/");
  const others = await page.evaluate(() => /** @type {any} */ (globalThis).sent);
  assert.ok(others.length >= 2 && !JSON.stringify(others).includes("secret"), JSON.stringify(others));
  await page.reload();
  await ready(page, "tale");
  assert.equal(await page.$eval("#hub-token", (node) => /** @type {HTMLInputElement} */ (node).value), "");
});

test("files that are dropped on the page are opened", async (t) => {
  const { page } = await openPage(t, "/");
  await ready(page, "tale");
  const names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
    ...[1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`)];
  const contents = names.map((name) => [name, readFileSync(join(MODELS.case, name)).toString("base64")]);
  const signs = await page.evaluate(async (contents) => {
    const transfer = new DataTransfer();
    for (const [name = "", base64] of contents) {
      transfer.items.add(new File([await (await fetch(`data:;base64,${base64}`)).blob()], name));
    }
    const sign = () => !document.querySelector("#drop")?.matches("[hidden]");
    const send = (/** @type {string} */ type) => document.body.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    const [kept, shown] = [send("dragover"), sign()];
    const taken = send("drop");
    return { prevented: !kept && !taken, shown, gone: !sign() };
  }, contents);
  assert.deepEqual(signs, { prevented: true, shown: true, gone: true });
  await ready(page, "your files");
});
