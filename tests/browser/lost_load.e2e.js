// The GPU process crashes while weights stream. Chromium only: only it can be asked to.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { browserName } from "./launch.js";

if (browserName() === "chromium") {
  test("a GPU process that crashes during a load ends it, and loading again works", async (t) => {
    const { page } = await openClient(t, { bytesPerSecond: 2e6, expectErrors: [/./] }); // the browser reports its crash
    await page.evaluate(() => {
      const { Engine, outcome } = /** @type {any} */ (globalThis).bise;
      const onProgress = (/** @type {any} */ { phase, done }) => {
        if (phase === "weights" && done > 1e6) Object.assign(globalThis, { started: true });
      };
      Object.assign(globalThis, { started: false, ended: outcome(Engine.load("/models/tale/", { weights: "checkpoint", onProgress })) });
    });
    await page.waitForFunction("started");
    const session = await page.browser().target().createCDPSession();
    await session.send(/** @type {any} */ ("Browser.crashGpuProcess"));
    const load = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
    assert.deepEqual([load.code, load.value], ["device-lost", undefined], JSON.stringify(load));
    assert.match(load.message, /load the model again/i);
    const text = await page.evaluate(async () => {
      const { Engine, proof } = /** @type {any} */ (globalThis).bise;
      const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
      const text = await proof(engine);
      await engine.dispose();
      return text;
    });
    assert.ok(text.startsWith(TALE_PROOF.slice(0, 10)), text);
  });
}
