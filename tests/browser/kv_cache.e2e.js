// A key/value cache of FP8 in a browser: on WebGPU and on the processor, half the memory, told beforehand.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient } from "./client.js";
import { openPage } from "./harness.js";

test("a cache of FP8 takes half the memory and says so", async (t) => {
  const { page } = await openClient(t);
  const results = await page.evaluate(async () => {
    const { Engine, inspect, outcome } = /** @type {any} */ (globalThis).bise;
    const all = [];
    for (const backend of ["webgpu", "cpu"]) {
      for (const kvCache of [undefined, "f16", "f8"]) {
        const options = { backend, weights: "checkpoint", contextLength: 256, ...(kvCache ? { kvCache } : {}) };
        const told = await inspect("/models/tale/", options);
        const engine = await Engine.load("/models/tale/", { ...options, cache: false });
        const request = { prompt: "Once upon a time", temperature: 0, max_tokens: 24, logprobs: 1 };
        const first = await engine.completions.create(request);
        // A second turn builds on what is kept, and a prompt beyond the context is refused.
        const again = await engine.completions.create({ ...request, prompt: `Once upon a time${first.choices[0].text} Then` });
        const beyond = await outcome(engine.completions.create({ prompt: Array.from({ length: 257 }, () => 5) }));
        const { info } = engine;
        await engine.dispose();
        all.push({
          kvCache: info.kvCache, backend: info.backend, bytes: info.memory.kvCache, told: told.memory.kvCache, text: first.choices[0].text,
          logprob: first.choices[0].logprobs.token_logprobs[0], cached: again.timings.cached_tokens, beyond: beyond.code,
        });
      }
    }
    return { all, wrong: await outcome(Engine.load("/models/tale/", { kvCache: "f4" })) };
  });
  for (const first of [0, 3]) {
    const [usual, wide, narrow] = results.all.slice(first, first + 3);
    assert.ok(usual && wide && narrow);
    assert.deepEqual([usual.kvCache, wide.kvCache, narrow.kvCache], ["f16", "f16", "f8"]);
    assert.deepEqual([usual.bytes, usual.text, usual.logprob], [wide.bytes, wide.text, wide.logprob]);
    assert.ok(narrow.bytes <= 0.63 * wide.bytes && narrow.bytes >= 0.5 * wide.bytes, `${narrow.bytes} of ${wide.bytes}`);
    // Other keys and values, and nearly the same probability.
    assert.notEqual(narrow.logprob, wide.logprob);
    assert.ok(Math.abs(narrow.logprob - wide.logprob) < 0.2, `${narrow.logprob} and ${wide.logprob}`);
    for (const { bytes, told, text, cached, beyond } of [usual, wide, narrow]) {
      assert.equal(told, bytes);
      assert.ok(text.length > 20 && cached > 3, `${cached} tokens kept of ${text}`);
      assert.equal(beyond, "bad-request");
    }
  }
  assert.equal(results.wrong.code, "bad-request");
  assert.match(results.wrong.message, /"f16" or "f8"/);
});

test("the page and the element take it from an address and an attribute", async (t) => {
  const { page } = await openPage(t, "/?backend=cpu&kvCache=f8");
  await page.waitForFunction(() => /as FP8/.test(document.querySelector("#status-memory")?.getAttribute("title") ?? ""));
  const note = await page.evaluate(async (script) => {
    await import(script);
    const element = document.createElement("bise-chat");
    element.setAttribute("model", "/models/tale/");
    element.setAttribute("kv-cache", "f4");
    document.body.append(element);
    await /** @type {any} */ (element).load();
    return element.shadowRoot?.querySelector(".note")?.textContent;
  }, "/pkg/element.js");
  assert.match(note ?? "", /kvCache/);
});
