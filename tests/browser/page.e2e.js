// The page, as a visitor uses it.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";
import { fromTop } from "./paths.js";

/** @typedef {import("puppeteer-core").Page} Page */

/**
 * Waits until a model is loaded.
 * @param {Page} page
 * @param {string} name
 */
const ready = (page, name) => page.waitForFunction(
  (name) => document.querySelector("#model-name")?.textContent === name
    && document.querySelector("#prompt")?.matches(":enabled") && document.querySelector("#loading")?.matches("[hidden]"),
  {}, name,
);

/**
 * Waits until no reply runs.
 * @param {Page} page
 */
const idle = (page) => page.waitForFunction(() => document.querySelector("#stop")?.matches("[hidden]") && !document.querySelector(".running"));

/**
 * The turns of the conversation.
 * @param {Page} page
 */
const turns = (page) => page.$$eval("#log .turn", (all) => all.map((turn) => ({
  role: turn.classList.contains("user") ? "user" : "assistant",
  text: turn.querySelector(".text")?.textContent ?? turn.textContent ?? "",
  note: turn.querySelector(".turn-foot span")?.textContent ?? "",
})));

/**
 * Types a message and sends it with the keyboard.
 * @param {Page} page
 * @param {string} text
 */
async function send(page, text) {
  await page.focus("#prompt");
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

/**
 * Writes into fields of the sampling panel; an empty value clears one.
 * @param {Page} page
 * @param {Record<string, string>} fields
 */
async function sample(page, fields) {
  await page.$eval("#sampling-panel", (panel) => panel.setAttribute("open", ""));
  for (const [name, value] of Object.entries(fields)) {
    await page.focus(`#sampling-${name}`);
    await page.$eval(`#sampling-${name}`, (input) => /** @type {HTMLInputElement} */ (input).select());
    if (value === "") await page.keyboard.press("Backspace");
    else await page.keyboard.type(value);
  }
}

/**
 * Presses a button by its text, as a visitor would.
 * @param {Page} page
 * @param {string} text
 */
async function press(page, text) {
  const button = await page.waitForSelector(`button ::-p-text(${text})`, { visible: true });
  await button?.click();
}

/**
 * Tokens of the conversation, as the status line says.
 * @param {Page} page
 */
const contextUsed = (page) => page.$eval("#status-context", (node) => {
  const [, used, limit] = /^(\d+) of (\d+)$/.exec(node.textContent ?? "") ?? [];
  return { used: Number(used), limit: Number(limit) };
});

/** @param {Page} page */
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

test("a visitor chats, stops, regenerates, and changes the sampling and the model", async (t) => {
  // On WebGPU, since it is slow enough here to be stopped.
  const { page } = await openPage(t, "/?backend=webgpu");
  await ready(page, "tale");
  assert.equal(await page.$eval("#empty", (empty) => /** @type {HTMLElement} */ (empty).hidden), false, "a welcome");
  assert.match(await page.$eval("#backend-note", (note) => note.textContent ?? ""), /^WebGPU is software here/);

  // A reply of full length, seen to grow.
  await sample(page, { temperature: "0", max_tokens: "24" });
  assert.equal(await page.$eval("#sampling-summary", (node) => node.textContent), "2 changed");
  await page.evaluate(() => {
    const [lengths, used] = /** @type {[number[], string[]]} */ ([[], []]);
    Object.assign(globalThis, { lengths, used });
    const context = /** @type {Node} */ (document.querySelector("#status-context"));
    new MutationObserver(() => used.push(context.textContent ?? "")).observe(context, { childList: true });
    new MutationObserver(() => lengths.push(document.querySelector(".running .text")?.textContent?.length ?? 0))
      .observe(/** @type {Node} */ (document.querySelector("#log")), { childList: true, subtree: true });
  });
  await send(page, "There was once a king who had three sons.");
  await page.waitForSelector("#stop:not([hidden])");
  await idle(page);
  const [user, first, ...none] = await turns(page);
  assert.deepEqual([user?.role, user?.text, first?.role, none.length], ["user", "There was once a king who had three sons.", "assistant", 0]);
  assert.match(first?.text ?? "", /^The king was /);
  assert.match(first?.note ?? "", /^24 tokens, /);
  const lengths = /** @type {number[]} */ (await page.evaluate("lengths"));
  assert.ok(new Set(lengths.filter((length) => length > 0)).size >= 5, `text grew in steps: ${lengths}`);

  // The context fills token by token, and ends at what the prompt and the reply took.
  const end = await contextUsed(page);
  assert.equal(end.limit, 512);
  const prompt = end.used - 24;
  assert.ok(prompt > 10 && prompt < 50, `a prompt of ${prompt} tokens`);
  const used = new Set(/** @type {string[]} */ (await page.evaluate("used")).map((text) => Number.parseInt(text, 10)));
  const each = Array.from({ length: 24 }, (_, i) => prompt + 1 + i);
  assert.ok(each.filter((count) => used.has(count)).length > 12, `seen while it grew: ${[...used]}`);

  // Temperature 0 says the same again.
  await press(page, "Regenerate");
  await page.waitForSelector("#stop:not([hidden])");
  await idle(page);
  assert.deepEqual((await turns(page)).map(({ text }) => text), [user?.text, first?.text]);

  // Fewer tokens, and another temperature with a seed.
  await sample(page, { max_tokens: "3", temperature: "2", seed: "1" });
  await press(page, "Regenerate");
  await idle(page);
  await page.waitForFunction(() => document.querySelector(".turn-foot span")?.textContent?.startsWith("3 tokens"));
  assert.notEqual((await turns(page))[1]?.text, first?.text);

  // The Stop button, and then Escape.
  await sample(page, { max_tokens: "", temperature: "0" });
  for (const stop of [() => page.click("#stop"), () => page.keyboard.press("Escape")]) {
    await press(page, "New chat");
    await page.waitForFunction(() => !document.querySelector(".turn"));
    await page.focus("#prompt");
    await send(page, "Once upon a time there was a fox");
    await page.waitForFunction(() => (document.querySelector(".running .text")?.textContent?.length ?? 0) > 5);
    await stop();
    await idle(page);
    const [, stopped] = await turns(page);
    assert.equal(stopped?.note, "stopped");
    assert.ok((stopped?.text.length ?? 0) < 200, stopped?.text);
    const { used } = await contextUsed(page);
    assert.ok(used > 8 && used < 100, `${used} tokens after Stop`);
  }

  // The other model.
  await page.click('[data-model="./models/case/"]');
  await page.waitForSelector("#loading:not([hidden])");
  await ready(page, "case");
  assert.equal(await page.$eval('[data-name="case"]', (node) => node.getAttribute("aria-pressed")), "true");
  assert.deepEqual(await turns(page), []);
  await sample(page, { max_tokens: "4" });
  await send(page, "My dear Watson");
  await page.waitForFunction(() => document.querySelector(".turn-foot"));
  assert.equal((await turns(page)).length, 2);
});

test("a model that is not there gives a message, and a way on", async (t) => {
  const { page } = await openPage(t, "/", { expectErrors: [/Failed to load resource/] });
  await ready(page, "tale");
  await page.focus("#model-address");
  await page.keyboard.type("./models/nothing/");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#message:not([hidden])");
  const said = await page.$eval("#message", (node) => node.textContent ?? "");
  assert.match(said, /missing, incomplete or damaged.*there is no model here: http.*\/models\/nothing\/config\.json was not found; check the name/);
  assert.equal(await page.$eval("#model-name", (node) => node.textContent), "tale", "what is loaded stays");
  assert.equal(await page.$eval("#prompt", (node) => node.matches(":enabled")), true);
  await page.click('[data-name="tale"]');
  await ready(page, "tale");
  assert.equal(await page.$eval("#message", (node) => /** @type {HTMLElement} */ (node).hidden), true);
});

test("a browser without WebGPU runs models on the processor, and says so", async (t) => {
  // Workers hold a navigator of their own: theirs is what the engine asks.
  const { page, url } = await openPage(t, "/pages/blank.html");
  await page.evaluateOnNewDocument(() => {
    const Original = globalThis.Worker;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} script @param {WorkerOptions} [options] */
      constructor(script, options) {
        const blob = (/** @type {string} */ code) => URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
        const without = blob("delete WorkerNavigator.prototype.gpu;");
        super(blob(`import "${without}"; import "${script}";`), options);
      }
    };
  });
  await page.goto(`${url}/`);
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "tale" && document.querySelector("#loading")?.matches("[hidden]"));
  const text = (/** @type {string} */ selector) => page.$eval(selector, (node) => node.textContent ?? "");
  assert.equal(await text("#status-adapter"), "CPU, one thread");
  assert.match(await text("#backend-why"), /^The processor computes, since there is no WebGPU adapter in this browser\.$/);
  assert.equal(await page.$eval("#message", (node) => node.matches("[hidden]")), true);
});

test("the visitor switches between the processor and WebGPU, the conversation goes on, and nothing is remembered", async (t) => {
  const { page, screenshot } = await openPage(t, "/", { width: 1280, height: 800 });
  const text = (/** @type {string} */ selector) => page.$eval(selector, (node) => node.textContent ?? "");
  const runsOn = (/** @type {string} */ name) => page.waitForFunction(
    (name) => document.querySelector("#status-adapter")?.textContent?.startsWith(name) && document.querySelector("#loading")?.matches("[hidden]"), {}, name,
  );
  await ready(page, "tale");
  assert.equal(await text("#status-adapter"), "CPU, one thread");
  assert.match(await text("#backend-why"), /^The processor computes, since the only WebGPU adapter here \(.+\) is software/);
  await sample(page, { max_tokens: "12", temperature: "0" });
  await page.$eval("#sampling-panel", (panel) => panel.removeAttribute("open"));
  await send(page, "There was once a king who had three sons.");
  await page.waitForFunction(() => document.querySelector(".turn-foot"));
  const said = await turns(page);
  assert.equal(said.length, 2);

  // Pictures of what it says, on every screen.
  const pictures = async (/** @type {string} */ name) => {
    for (const [screen, width, height] of /** @type {[string, number, number][]} */ ([["desktop", 1280, 800], ["phone", 390, 844]])) {
      await page.setViewport({ width, height });
      await page.$eval(".status", (status) => status.scrollIntoView());
      for (const scheme of browserName() === "firefox" ? ["light"] : ["light", "dark"]) {
        if (browserName() !== "firefox") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        await screenshot(`${name}-${screen}-${scheme}`);
      }
      assert.equal(await overflow(page), 0, `${name}, ${screen}`);
    }
    await page.setViewport({ width: 1280, height: 800 });
  };
  await pictures("on-processor");
  await press(page, "Use WebGPU");
  await runsOn("WebGPU: ");
  assert.match(await text("#backend-why"), /^WebGPU is software here/);
  assert.deepEqual((await turns(page)).map(({ text }) => text), said.map(({ text }) => text), "the conversation stays");
  await pictures("on-webgpu");
  await send(page, "And then?");
  await page.waitForFunction(() => document.querySelectorAll(".turn").length === 4 && document.querySelector(".turn:last-child .turn-foot"));
  // The next model runs there, too; and back.
  await page.click('[data-model="./models/case/"]');
  await ready(page, "case");
  assert.match(await text("#status-adapter"), /^WebGPU: /);
  assert.deepEqual(await turns(page), [], "another model begins anew");
  await press(page, "Use the processor");
  await runsOn("CPU");
  assert.equal(await text("#backend-why"), "The processor computes, as chosen.");
  assert.equal(await text("#model-name"), "case");

  const kept = await page.evaluate(async () => [{ ...localStorage }, { ...sessionStorage }, document.cookie, (await indexedDB.databases()).length, location.search]);
  assert.deepEqual(kept, [{}, {}, "", 0, ""]);
  await press(page, "Use WebGPU");
  await runsOn("WebGPU: ");
  await page.reload();
  await ready(page, "tale");
  assert.equal(await text("#status-adapter"), "CPU, one thread");
});

test("an address that names a backend is followed, and one that names none such is refused", async (t) => {
  const { page, url } = await openPage(t, "/?backend=cpu");
  await ready(page, "tale");
  assert.equal(await page.$eval("#backend-why", (node) => node.textContent), "The processor computes, as chosen.");
  await page.goto(`${url}/?backend=npu`);
  await page.waitForSelector("#message:not([hidden])");
  assert.match(await page.$eval("#message", (node) => node.textContent ?? ""), /backend.*"auto".*"webgpu".*"cpu"/);
});

test("the page works below a path of its host, and fits a narrow screen", async (t) => {
  const path = "/some/sub/path/";
  const { page, server } = await openPage(t, path, { root: fromTop("tests/browser/pages"), mounts: { [path]: fromTop("target/site") }, width: 320, height: 640 });
  await ready(page, "tale");
  assert.ok(server.log.every((entry) => entry.path.startsWith(path) || entry.path === "/favicon.ico"), JSON.stringify(server.log.map((entry) => entry.path)));
  assert.equal(await overflow(page), 0, "after the load");
  await sample(page, { max_tokens: "12", temperature: "0" });
  assert.equal(await overflow(page), 0, "with the sampling panel open");
  await page.$$eval("details", (all) => { for (const each of all) each.open = true; });
  assert.equal(await overflow(page), 0, "with all panels open");
  await send(page, `A word that is long: ${"abcdefghij".repeat(12)}`);
  await page.waitForFunction(() => document.querySelector(".turn-foot"));
  assert.equal(await overflow(page), 0, "with a long word");
});

test("pictures of a finished chat", async (t) => {
  const { page, screenshot } = await openPage(t, "/", { width: 1280, height: 800 });
  await ready(page, "tale");
  await sample(page, { max_tokens: "40", temperature: "0" });
  await page.$eval("#sampling-panel", (panel) => panel.removeAttribute("open"));
  await send(page, "There was once a king who had three sons.");
  await page.waitForFunction(() => document.querySelector(".turn-foot"));
  for (const [name, width, height] of /** @type {[string, number, number][]} */ ([["desktop", 1280, 800], ["phone", 390, 844]])) {
    await page.setViewport({ width, height });
    if (name === "phone") await page.$$eval("details", (all) => { for (const each of all) each.open = false; });
    for (const scheme of ["light", "dark"]) {
      // Firefox's protocol knows no emulation of colours yet: its pictures are of the scheme it has.
      if (browserName() === "firefox") {
        if (scheme === "light") await screenshot(name);
        continue;
      }
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await screenshot(`${name}-${scheme}`);
    }
    assert.equal(await overflow(page), 0, name);
  }
});
