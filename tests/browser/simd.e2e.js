// A browser whose WebAssembly has no SIMD: Chromium on a processor without it. Chromium only: only it can be told to
// believe so.

import assert from "node:assert/strict";
import test from "node:test";
import { browserName, launch } from "./launch.js";
import { fromTop } from "./paths.js";
import { startServer } from "./server.js";

if (browserName() === "chromium") {
  test("without SIMD everything that needs the engine says so, and which browsers have it", async (t) => {
    const server = await startServer({ root: fromTop("target/site"), mounts: { "/pages/": fromTop("tests/browser/pages") } });
    t.after(server.close);
    const { browser, close } = await launch("chromium", undefined, { args: ["--js-flags=--no-enable-sse4-1"] });
    t.after(close);
    const page = await browser.newPage();
    await page.goto(`${server.url}/pages/client.html?backend=auto`, { waitUntil: "load" });
    await page.waitForFunction("globalThis.bise !== undefined");
    const ends = await page.evaluate(async () => {
      const { Engine, inspect, outcome, recipeOutline } = /** @type {any} */ (globalThis).bise;
      const load = (/** @type {string} */ backend) => outcome(Engine.load("/models/tale/", { backend }));
      return [await load("auto"), await load("cpu"), await load("webgpu"), await outcome(inspect("/models/tale/")), await outcome(recipeOutline("x"))];
    });
    for (const end of ends) {
      assert.deepEqual([end.name, end.code], ["BiseError", "unsupported-browser"], JSON.stringify(end));
      assert.match(end.message ?? "", /SIMD.*Chrome or Edge 96, Firefox 114, Safari 16\.4/);
    }
    assert.ok(!server.log.some(({ path }) => path.endsWith(".wasm") || path.endsWith(".safetensors")), "nothing large was fetched");
    await page.goto(`${server.url}/`, { waitUntil: "load" });
    await page.waitForSelector("#message:not([hidden])");
    assert.match(await page.$eval("#message", (node) => node.textContent ?? ""), /This browser cannot run models.*has no SIMD/);
  });
}
