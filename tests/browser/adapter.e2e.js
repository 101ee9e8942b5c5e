// The ground that everything else stands on: a GPU in a module worker that computes.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";

test("a module worker gets an adapter that adds", async (t) => {
  const { page } = await openPage(t, "/pages/blank.html");
  const result = await page.evaluate(async () => {
    const worker = new Worker("/pages/adapter-worker.js", { type: "module" });
    const answer = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = reject;
    });
    worker.postMessage("go");
    return /** @type {any} */ (await answer);
  });
  console.log(`    ${JSON.stringify(result)}`);
  assert.notEqual(result.adapter, null, "no adapter");
  assert.deepEqual([result.length, result.last, result.maxError], [1000, 1498.5, 0]);
});

test("what the page logs as an error fails its test", async (t) => {
  /** @type {(() => unknown)[]} */
  const hooks = [];
  const context = /** @type {any} */ ({ after: (/** @type {() => unknown} */ hook) => hooks.push(hook) });
  const cases = /** @type {[string, RegExp][]} */ ([
    ["console", /oh no/],
    ["throw", /oh my/],
    ["worker throw", /oh dear/],
    ["worker console", /oh boy/],
  ]);
  for (const [kind, expected] of cases) {
    const { page, close } = await openPage(context, "/pages/blank.html");
    t.after(() => Promise.allSettled(hooks.map((hook) => hook())));
    await page.evaluate((kind) => {
      const startWorker = (/** @type {string} */ code) => new Worker(URL.createObjectURL(new Blob([code])));
      if (kind === "console") console.error("oh no");
      if (kind === "throw") setTimeout(() => { throw new Error("oh my"); });
      if (kind === "worker throw") startWorker("throw new Error('oh dear')");
      if (kind === "worker console") startWorker("console.error('oh boy')");
    }, kind);
    await new Promise((resolve) => setTimeout(resolve, 500));
    await assert.rejects(close(), expected, kind);
  }
  const { page } = await openPage(t, "/pages/blank.html", { expectErrors: [/oh well/] });
  await page.evaluate(() => console.error("oh well"));
});
