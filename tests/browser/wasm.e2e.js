// The wasm's own interface, without the client that checks options first: what is wrong is named.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";

/** Options or requests, and what the error has to say. */
const WRONG = /** @type {["load" | "generate", object, RegExp][]} */ ([
  ["load", { contextLength: "long" }, /^load options: contextLength: /],
  ["load", { weights: "int4" }, /^load options: weights: .*int4/],
  ["load", { cotextLength: 5 }, /cotextLength/],
  ["generate", { prompt: { ids: [1] }, temperature: "hot" }, /^request: temperature: /],
  ["generate", { prompt: { ids: [1, "two"] } }, /^request: prompt\.ids\[1\]: /],
  ["generate", { prompt: { messages: [{ role: "user", content: 7 }] } }, /^request: prompt\.messages\[0\]\.content: /],
  ["generate", {}, /prompt/],
]);

test("errors of the wasm's own interface name the field", async (t) => {
  const { page, url } = await openPage(t, "/pages/blank.html");
  const said = await page.evaluate(async (wrong, base) => {
    const path = "/pkg/wasm/bise.js"; // not a literal: the type checker knows no such file
    const { default: init, WebEngine } = await import(path);
    await init();
    const signal = new AbortController().signal;
    const load = (/** @type {object} */ options) => WebEngine.load({ kind: "http", base }, options, () => {}, () => {}, signal);
    const engine = await load({});
    // What is left out may also be undefined or null; seeds are whole numbers of any size.
    for (const nothing of [undefined, null]) {
      await engine.generate({ prompt: { ids: [1] }, max_tokens: 1, seed: 2 ** 53 - 1, temperature: nothing, logprobs: nothing }, () => {}, signal);
    }
    const errors = [];
    for (const [call, given] of wrong) {
      const promise = call === "load" ? load(given) : engine.generate(given, () => {}, signal);
      errors.push(await promise.then(() => ({ code: "none", message: "" }), (/** @type {any} */ { code, message }) => ({ code, message })));
    }
    engine.free();
    return errors;
  }, WRONG, `${url}/models/tale/`);
  for (const [i, { code, message }] of said.entries()) {
    const [call, given, expected] = WRONG[i] ?? [];
    const where = `${call} ${JSON.stringify(given)}: ${message}`;
    console.log(`    ${where}`);
    assert.equal(code, "bad-request", where);
    assert.match(message, expected ?? /./, where);
  }
});
