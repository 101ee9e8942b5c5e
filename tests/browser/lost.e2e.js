// The graphics device goes: in the middle of a load, of replies, and of nothing. A device says so here; one that goes with
// Chromium's GPU process does in the page below and in lost_load.e2e.js, once in a browser each: a second time, Chromium
// gives no adapter any more.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";

/** The client's workers get a device that is lost on the channel "lose". @param {import("puppeteer-core").Page} page */
const prepare = (page) => page.evaluate(() => {
  const Original = globalThis.Worker;
  globalThis.Worker = class extends Original {
    /** @param {string | URL} _script @param {WorkerOptions} [options] */
    constructor(_script, options) {
      super("/pages/losing-worker.js", options);
    }
  };
});

/** @param {import("puppeteer-core").Page} page */
const lose = (page) => page.evaluate(() => new BroadcastChannel("lose").postMessage("now"));

test("a lost device fails everything that waits, and loading again works", async (t) => {
  const { page } = await openClient(t, { bytesPerSecond: 3e6, expectErrors: [/./] });
  await prepare(page);
  /** A new engine proves itself. */
  const again = async () => {
    const text = await page.evaluate(async () => {
      const { Engine, proof } = /** @type {any} */ (globalThis).bise;
      const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
      const text = await proof(engine);
      await engine.dispose();
      return text;
    });
    assert.ok(text.startsWith(TALE_PROOF.slice(0, 10)), text);
  };

  // While weights come.
  await page.evaluate(() => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    const onProgress = (/** @type {any} */ { phase, done }) => {
      if (phase === "weights" && done > 1e6) Object.assign(globalThis, { started: true });
    };
    Object.assign(globalThis, { started: false, ended: outcome(Engine.load("/models/tale/", { weights: "checkpoint", onProgress })) });
  });
  await page.waitForFunction("started");
  await lose(page);
  const load = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
  assert.deepEqual([load.code, load.value], ["device-lost", undefined], JSON.stringify(load));
  assert.match(load.message, /load the model again/i);
  await again();

  // In the middle of a reply, with two more behind it.
  await page.evaluate(async () => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const ask = () => engine.completions.create({ prompt: "Once upon a time", max_tokens: 400, ignore_eos: true, temperature: 0 });
    const chunks = await engine.completions.create({ prompt: "Once", max_tokens: 400, ignore_eos: true, stream: true });
    const reading = (async () => {
      for await (const _ of chunks) Object.assign(globalThis, { started: true });
    })();
    Object.assign(globalThis, { engine, started: false, ended: Promise.all([reading, ask(), ask()].map(outcome)) });
  });
  await page.waitForFunction("started");
  await lose(page);
  const ends = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
  assert.deepEqual(ends.map((/** @type {any} */ { code }) => code), ["device-lost", "device-lost", "device-lost"], JSON.stringify(ends));
  assert.equal(new Set(ends.map((/** @type {any} */ { message }) => message)).size, 1, "one loss, one report");
  const late = await page.evaluate(() => {
    const { engine, outcome } = { ...(/** @type {any} */ (globalThis).bise), engine: /** @type {any} */ (globalThis).engine };
    return outcome(engine.completions.create({ prompt: "Once", max_tokens: 1 }));
  });
  assert.deepEqual([late.code, late.message], ["device-lost", ends[0].message]);
  await again();

  // While nothing runs: the next request is told.
  await page.evaluate(async () => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    Object.assign(globalThis, { engine: await Engine.load("/models/tale/", { weights: "checkpoint" }) });
  });
  await lose(page);
  const next = await page.evaluate(() => {
    const { engine, bise: { outcome, proof } } = /** @type {any} */ (globalThis);
    return outcome(proof(engine));
  });
  assert.equal(next.code, "device-lost", JSON.stringify(next));
  await again();
});

test("left the choice, the processor steps in once after a device was lost", async (t) => {
  const { page } = await openClient(t, { backend: "auto", bytesPerSecond: 3e6, expectErrors: [/./] });
  /** Another script for the workers to come. @param {string} worker */
  const useWorker = (worker) => page.evaluate((worker) => /** @type {any} */ (globalThis).useWorker(worker), worker);
  /** What a load runs on, and whether it runs. */
  const run = (options = {}) => page.evaluate(async (options) => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const { value: engine, ...end } = await outcome(Engine.load("/models/tale/", options));
    if (!engine) return { ...end, text: "", backend: "", reason: "", weights: "" };
    const text = await proof(engine);
    await engine.dispose();
    return { ...end, text, backend: engine.info.backend, reason: engine.info.backendReason, weights: engine.info.weights };
  }, options);
  await useWorker("/pages/hardware-worker.js");

  // In a reply: it fails, as it does without a choice.
  await page.evaluate(async () => {
    const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const chunks = await engine.completions.create({ prompt: "Once", max_tokens: 400, ignore_eos: true, stream: true });
    Object.assign(globalThis, { started: false, ended: outcome((async () => {
      for await (const _ of chunks) Object.assign(globalThis, { started: true });
    })()) });
  });
  await page.waitForFunction("started");
  await lose(page);
  const reply = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
  assert.equal(reply.code, "device-lost", JSON.stringify(reply));
  // Chromium takes long to compile the shaders that hardware gets: the rest is seen in Firefox, and tests/js/client.test.js.
  if (browserName() === "firefox") {
    // Where the processor has too little memory, WebGPU is tried again.
    await useWorker("/pages/small-hardware-worker.js?mib=20");
    const again = await run();
    assert.deepEqual([again.backend, again.weights, again.text.slice(0, 10)], ["webgpu", "f8", TALE_PROOF.slice(0, 10)], JSON.stringify(again));
    assert.match(again.reason, /graphics adapter/);

    // In a load, which is on WebGPU again: one loss, one load on the processor.
    await useWorker("/pages/hardware-worker.js");
    await page.evaluate(() => {
      const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
      const onProgress = (/** @type {any} */ { phase, done }) => {
        if (phase === "weights" && done > 1e6) Object.assign(globalThis, { started: true });
      };
      Object.assign(globalThis, { started: false, ended: outcome(Engine.load("/models/tale/", { weights: "checkpoint", cache: false, onProgress })) });
    });
    await page.waitForFunction("started");
    await lose(page);
    const load = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
    assert.equal(load.code, "device-lost", JSON.stringify(load));
  }
  const { text, backend, reason } = await run({ weights: "checkpoint" });
  assert.deepEqual({ text, backend, reason }, { text: TALE_PROOF, backend: "cpu", reason: "the graphics device was lost" });
});

if (browserName() === "chromium") {
  test("a lost device is said, takes the model with it, and the model can be loaded again", async (t) => {
    const { page, screenshot } = await openPage(t, "/?backend=webgpu", { expectErrors: [/./] }); // the browser reports its crash
    const ready = () => page.waitForFunction(() => document.querySelector("#prompt")?.matches(":enabled"));
    const text = (/** @type {string} */ selector) => page.$eval(selector, (node) => node.textContent ?? "");
    const buttons = () => page.$$eval("button", (all) => all.filter((button) => button.checkVisibility() && !button.disabled).map(({ textContent }) => textContent));
    const send = async () => {
      await page.focus("#prompt");
      await page.keyboard.type("Once upon a time");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => (document.querySelector(".running .text")?.textContent?.length ?? 0) > 20);
    };
    await ready();
    await send();
    const session = await page.browser().target().createCDPSession();
    await session.send(/** @type {any} */ ("Browser.crashGpuProcess"));
    await page.waitForSelector("#message:not([hidden])");
    assert.match(await text("#message"), /The engine was lost/);
    await page.waitForFunction(() => !document.querySelector(".running"));
    await screenshot("lost");
    assert.ok((await text("#log")).length > 20, "what was said stays");
    assert.deepEqual([await text("#status-adapter"), await text("#status-memory"), await text("#status-context"), await text("#status-speed"), await text("#model-name")],
      ["none yet", "0 MB", "0", "idle", "none"]);
    assert.equal(await page.$eval("#prompt", (prompt) => prompt.matches(":disabled")), true);
    const offered = await buttons();
    assert.deepEqual(offered.filter((label) => /Regenerate|New chat|Send/.test(label ?? "")), []);
    assert.ok(offered.includes("Load the model again"), JSON.stringify(offered));

    await (await page.waitForSelector("button ::-p-text(Load the model again)"))?.click();
    await ready();
    await send();
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.querySelector(".turn-foot"));
    assert.equal(await text("#model-name"), "tale");
    assert.match(await text("#status-memory"), /^[1-9]/);
  });
}

// Chromium takes long to compile the shaders that hardware gets.
if (browserName() === "firefox") {
  test("the page goes on on the processor after a loss, says why, and keeps what was said", async (t) => {
    const { page, url } = await openPage(t, "/pages/blank.html", { expectErrors: [/./] });
    await page.evaluateOnNewDocument(() => {
      const Original = globalThis.Worker;
      globalThis.Worker = class extends Original {
        /** @param {string | URL} script @param {WorkerOptions} [options] */
        constructor(script, options) {
          const imports = [`${location.origin}/pages/gpu-hardware.js`, `${location.origin}/pages/gpu-losing.js`, String(script)];
          const code = imports.map((each) => `import "${each}";`).join("\n");
          super(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), options);
        }
      };
    });
    await page.goto(`${url}/`);
    const text = (/** @type {string} */ selector) => page.$eval(selector, (node) => node.textContent ?? "");
    const ready = () => page.waitForFunction(() => document.querySelector("#prompt")?.matches(":enabled") && document.querySelector("#loading")?.matches("[hidden]"));
    await ready();
    assert.match(await text("#status-adapter"), /^WebGPU: /);
    assert.equal(await text("#backend-why"), "The graphics card computes, through WebGPU.");
    await page.focus("#prompt");
    await page.keyboard.type("Once upon a time");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => (document.querySelector(".running .text")?.textContent?.length ?? 0) > 20);
    await lose(page);
    await page.waitForSelector("#message:not([hidden])");
    assert.match(await text("#message"), /The engine was lost/);
    const said = await text("#log");
    await (await page.waitForSelector("button ::-p-text(Load the model again)"))?.click();
    await ready();
    assert.equal(await text("#backend-why"), "The processor computes, since the graphics device was lost.");
    assert.equal(await text("#status-adapter"), "CPU, one thread");
    assert.ok((await text("#log")).startsWith(said.slice(0, 40)), "what was said stays");
    await page.focus("#prompt");
    await page.keyboard.type("And then?");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 4 && document.querySelector(".turn:last-child .turn-foot"));
  });
}
