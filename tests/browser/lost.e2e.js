// The graphics device goes in the middle of a reply. Chromium only: only it can be asked to crash its
// GPU process.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";

if (browserName() === "chromium") {
  test("a lost device is said, takes the model with it, and the model can be loaded again", async (t) => {
    const { page, screenshot } = await openPage(t, "/", { expectErrors: [/./] }); // the browser reports its crash
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
