// The page's view of what this browser keeps.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";
import { MODELS } from "./paths.js";
import { checkpoint } from "./seven.js";

/** @typedef {import("puppeteer-core").Page} Page */

/** @param {Page} page @param {string} name */
const ready = (page, name) => page.waitForFunction(
  (name) => document.querySelector("#model-name")?.textContent === name && document.querySelector("#loading")?.matches("[hidden]"), {}, name,
);

/** @param {Page} page */
const kept = (page) => page.$$eval("#kept:not([hidden]) #kept-list li", (items) => items.map((item) => ({
  name: item.querySelector("strong")?.textContent, state: item.querySelector(".hint")?.textContent ?? "",
})));

/** @param {Page} page @param {number} count */
const keeps = (page, count) => page.waitForFunction((count) => document.querySelectorAll("#kept:not([hidden]) #kept-list li").length === count, {}, count);

test("kept models are listed with their sizes, and deleted one by one or all", async (t) => {
  const { page, screenshot } = await openPage(t);
  await ready(page, "tale");
  await keeps(page, 1);
  const [tale] = await kept(page);
  assert.equal(tale?.name, "tale");
  // The form is that of the backend the page took.
  const { backend, kept: isKept, weights } = await page.evaluate(async () => {
    const { inspect } = await /** @type {Promise<any>} */ (import(/** @type {any} */ ("/pkg/index.js")));
    return inspect("/models/tale/");
  });
  assert.deepEqual([isKept, weights], [true, backend === "cpu" ? "i8" : "f8"]);
  assert.match(tale?.state ?? "", backend === "cpu" ? /^[45]\.\d MB, 8-bit integers$/ : /^[45]\.\d MB, FP8$/);
  assert.match(await page.$eval("#kept-total", (total) => total.textContent ?? ""), /^[45]\.\d MB in all, room for \d.* more$/);

  await page.click('button[data-name="case"]');
  await ready(page, "case");
  await keeps(page, 2);
  await screenshot("kept");
  await page.click('button[aria-label="Delete: tale"]');
  await keeps(page, 1);
  assert.deepEqual((await kept(page)).map(({ name }) => name), ["case"]);

  await page.reload({ waitUntil: "load" });
  await ready(page, "tale");
  await keeps(page, 2);
  await page.click("#kept-clear");
  await page.waitForFunction(() => document.querySelectorAll("#kept-list li").length === 0);

  // What they were when they were first downloaded is remembered until it is forgotten.
  const remembered = () => page.$$eval("#kept-pins:not([hidden]) li", (items) => items.map((item) => item.getAttribute("title")?.replace(/^.*\/models\//, "")).sort());
  assert.deepEqual(await remembered(), ["case/", "tale/"]);
  await page.click("#kept-pins summary");
  await page.click('button[aria-label="Forget the first download: case"]');
  await page.waitForFunction(() => document.querySelectorAll("#kept-pins li").length === 1);
  assert.deepEqual(await remembered(), ["tale/"]);
  await page.click('button[aria-label="Forget the first download: tale"]');
  await page.waitForFunction(() => document.querySelector("#kept")?.matches("[hidden]"));
  assert.deepEqual(await page.evaluate(() => /** @type {Promise<any>} */ (import(/** @type {any} */ ("/pkg/index.js"))).then(({ cache }) => cache.pinned())), []);
});

test("a large model that is kept asks for its context alone, however its address is spelled, without its server", async (t) => {
  // Most of it is what no decoder reads: little is kept.
  const computed = { "/computed/": checkpoint("mini", "fp8", { fillerBytes: 320e6 }) };
  const { page, server, url } = await openPage(t, "/", { computed, expectErrors: [/503/] });
  await ready(page, "tale");
  await page.evaluate(() => {
    /** @type {any[]} */
    const loads = [];
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (/** @type {any} */ message, /** @type {any} */ ...rest) {
      if (message?.type === "load") loads.push(message.options);
      return postMessage.call(this, message, ...rest);
    };
    Object.assign(globalThis, { loads });
  });
  const choose = async (/** @type {string} */ address, /** @type {string} */ context) => {
    await page.$eval("#model-address", (input, address) => {
      /** @type {HTMLInputElement} */ (input).value = address;
      /** @type {HTMLInputElement} */ (input).form?.requestSubmit();
    }, address);
    await page.waitForSelector("#confirm:not([hidden])");
    const facts = await page.$$eval("#confirm-facts li", (all) => all.map(({ textContent }) => textContent ?? ""));
    await page.select("#confirm-context", context);
    await page.click("#confirm-load");
    await ready(page, address);
    return { facts, ...await page.evaluate(() => /** @type {any} */ (globalThis).loads.at(-1)) };
  };
  const first = await choose("/computed/", "1024");
  assert.match(first.facts.join("; "), /3\d\d MB to download/);
  assert.equal(first.contextLength, 1024);
  await keeps(page, 2);
  server.options.refuse = (path) => (path.startsWith("/computed/") ? 503 : undefined);
  server.log.length = 0;
  for (const [address, context] of /** @type {const} */ ([[`${url}/computed/`, "2048"], ["./computed", "1024"]])) {
    const { facts, contextLength } = await choose(address, context);
    assert.match(facts.join("; "), /Kept in this browser: nothing to download/);
    assert.doesNotMatch(facts.join("; "), /to download:|free in this browser/);
    assert.equal(contextLength, Number(context));
  }
  assert.deepEqual(server.log.filter(({ path, method }) => method === "GET" && path.startsWith("/computed/")), []);
});

test("a kept model by its URL loads at once, asked nothing, while its server gives no weights", async (t) => {
  const { page, server } = await openPage(t, "/", { expectErrors: [/503/] });
  await ready(page, "tale");
  const enter = async () => {
    await page.$eval("#model-address", (input) => {
      /** @type {HTMLInputElement} */ (input).value = "/copies/case/";
      /** @type {HTMLInputElement} */ (input).form?.requestSubmit();
    });
    await ready(page, "/copies/case/");
  };
  server.options.mounts = { ...server.options.mounts, "/copies/case/": MODELS.case };
  await enter();
  await keeps(page, 2);
  await page.reload({ waitUntil: "load" });
  await ready(page, "tale");
  server.log.length = 0;
  server.options.refuse = (path) => (path.startsWith("/copies/") ? 503 : undefined);
  await enter();
  assert.deepEqual(server.log.filter(({ path, method }) => method === "GET" && path.endsWith(".safetensors")), []);
});

test("a load that was stopped is shown as one in part, and why a model is not kept is said", async (t) => {
  const { page } = await openPage(t, "/", { bytesPerSecond: 8_000_000 });
  await page.waitForFunction(() => /of/.test(document.querySelector("#load-detail")?.textContent ?? ""));
  await page.click("#cancel-load");
  await keeps(page, 1);
  const [tale] = await kept(page);
  assert.match(tale?.state ?? "", /in part/);

  await page.evaluate(() => {
    const { Worker } = globalThis;
    globalThis.Worker = class extends Worker {
      /** @param {string | URL} _script @param {WorkerOptions} [options] */
      constructor(_script, options) {
        super("/pages/tight-worker.js?left=1000000", options);
      }
    };
  });
  await page.click('button[data-name="case"]');
  await ready(page, "case");
  const note = await page.$eval("#kept-note:not([hidden])", (each) => each.textContent ?? "");
  assert.match(note, /not kept for next time: this browser has too little space/);
});
