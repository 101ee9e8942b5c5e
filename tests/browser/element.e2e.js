// <bise-chat> in a page that knows nothing else of the package.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";

/**
 * What the element shows.
 * @param {import("puppeteer-core").Page} page
 */
const shown = (page) => page.evaluate(() => {
  const element = /** @type {HTMLElement} */ (document.querySelector("bise-chat") ?? /** @type {any} */ (globalThis).element);
  const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (element.shadowRoot?.querySelector(selector));
  return {
    loading: !part("progress").hidden, button: !part("#load").hidden, form: !part("form").hidden,
    submit: part("form button").textContent, note: part(".note").textContent,
    turns: [...part("#log").children].map((turn) => [turn.className, turn.textContent]),
  };
});

/**
 * Waits until the element shows this.
 * @param {import("puppeteer-core").Page} page
 * @param {Partial<Awaited<ReturnType<typeof shown>>>} wanted
 */
async function until(page, wanted) {
  for (let i = 0; i < 1200; i += 1) {
    const now = /** @type {Record<string, unknown>} */ (await shown(page));
    if (Object.entries(wanted).every(([name, value]) => now[name] === value)) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`never shown: ${JSON.stringify(wanted)}, but ${JSON.stringify(await shown(page))}`);
}

/**
 * @param {import("puppeteer-core").Page} page
 * @param {string} text
 */
async function send(page, text) {
  await page.evaluate(() => /** @type {any} */ (document.querySelector("bise-chat")).shadowRoot.querySelector("textarea").focus());
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

test("the element loads, chats, stops, and survives being taken out of the page and put back", async (t) => {
  const { page } = await openPage(t, "/pages/blank.html", { bytesPerSecond: 2e7, expectErrors: [/404/] });
  await page.evaluate(async (script) => {
    await import(script);
    document.body.innerHTML = '<bise-chat model="/models/nothing/"></bise-chat>';
  }, "/pkg/element.js");
  // Without autoload nothing loads before the visitor asks for it; a failure is said, and leaves a way on.
  assert.deepEqual(await shown(page), { loading: false, button: true, form: false, submit: "Send", note: "", turns: [] });
  await page.evaluate(() => /** @type {any} */ (document.querySelector("bise-chat")).shadowRoot.querySelector("#load").click());
  await until(page, { loading: false, button: true });
  assert.match((await shown(page)).note ?? "", /config\.json/);

  // Taken out while it loads, and put back: once before the load has ended, and once long after.
  await page.evaluate(async () => {
    const wait = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));
    document.body.innerHTML = '<bise-chat model="/models/tale/" autoload></bise-chat>';
    const element = /** @type {HTMLElement} */ (document.querySelector("bise-chat"));
    await wait(100);
    element.remove();
    await wait(0);
    document.body.append(element);
    await wait(100);
    element.remove();
    Object.assign(globalThis, { element });
  });
  await until(page, { loading: false });
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 500)));
  assert.equal((await shown(page)).form, false, "out of the page nothing loads");
  await page.evaluate(() => document.body.append(/** @type {any} */ (globalThis).element));
  await until(page, { loading: true });
  await page.evaluate(async () => {
    const { element } = /** @type {any} */ (globalThis);
    element.remove();
    await null; // by now it has stopped the load, which has not ended
    document.body.append(element);
  });
  await until(page, { form: true, loading: false });
  assert.match((await shown(page)).note ?? "", /^Runs on the processor, since the only WebGPU adapter here .*is software/);

  await send(page, "Once upon a time there was a fox");
  await until(page, { submit: "Stop" });
  await page.waitForFunction(() => (/** @type {any} */ (document.querySelector("bise-chat")).shadowRoot.querySelector(".assistant")?.textContent.length ?? 0) > 10);
  await page.keyboard.press("Escape");
  await until(page, { submit: "Send", note: "Stopped." });
  const { turns } = await shown(page);
  assert.deepEqual(turns.map(([role]) => role), ["user", "assistant"]);

  // Moved within the page it keeps its model; taken out it gives it up.
  await page.evaluate(() => document.body.prepend(/** @type {any} */ (document.querySelector("bise-chat"))));
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal((await shown(page)).form, true);
  await page.evaluate(() => document.querySelector("bise-chat")?.remove());
  await until(page, { form: false, button: true });
});
