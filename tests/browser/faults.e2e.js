// Damaged checkpoints and bad servers: the right error, and a page that goes on working.

import assert from "node:assert/strict";
import test from "node:test";
import { EITHER_BACKEND, TALE_PROOF, openClient } from "./client.js";

const SHARD = "model-00002-of-00003.safetensors";

/**
 * Fault, the file it strikes, the code it gives, and what the message has to say beside the file's name;
 * in groups by how far a load gets: before the weights, while they are checked, while they arrive.
 */
const FAULTS = /** @type {[string, string, string, RegExp][][]} */ ([[
  ["header", SHARD, "bad-checkpoint", /header/],
  ["headlength", SHARD, "bad-checkpoint", /header/],
  ["truncate", SHARD, "bad-checkpoint", /bytes/],
  ["404", SHARD, "bad-checkpoint", /not found/],
  ["404", "config.json", "bad-checkpoint", /there is no model here: http:.*\/models\/tale\/config\.json was not found; check the name/],
  ["403", "config.json", "network", /http:.*answered 403; the model is gated or private.*headers/],
  ["401", SHARD, "network", /http:.*answered 401; the model is gated or private.*headers/],
  ["page", "config.json", "bad-checkpoint", /./],
], [
  ["nan", SHARD, "bad-checkpoint", /tensor model\.layers\..* NaN/],
], [
  ["cut.0~1-", SHARD, "network", /cut.*at byte 65536, attempts: 2/],
  ["wrongrange", SHARD, "network", /sent "bytes 65535-/],
  ["500", SHARD, "network", /500.*attempts: 2/],
  ["etag~1-", SHARD, "integrity", /changed on the server.*byte 65536/],
]]);

/**
 * How a load of a model ends: its error, or what it says.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 */
function tryLoad(page, model) {
  return page.evaluate(async (model) => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const { value: engine, ...end } = await outcome(Engine.load(model, { weights: "checkpoint", network: { attempts: 2, backoffMs: 20 } }));
    if (!engine) return { ...end, text: "" };
    const text = await proof(engine);
    await engine.dispose();
    return { ...end, text };
  }, model);
}

test("every fault gives its error, and then a load works", async (t) => {
  const { page } = await openClient(t, { backend: EITHER_BACKEND, expectErrors: [/Failed to load resource/] });
  for (const group of FAULTS) {
    for (const [kind, file, code, said] of group) {
      const where = `${kind} of ${file}`;
      const failed = await tryLoad(page, `/fault/${kind}/${file}/models/tale/`);
      console.log(`    ${where}: ${failed.code}: ${failed.message}`);
      assert.deepEqual([failed.name, failed.code], ["BiseError", code], where);
      assert.ok(failed.message?.includes(file), where);
      assert.match(failed.message ?? "", said, where);
    }
    const good = await tryLoad(page, "/models/tale/");
    assert.ok(good.text.startsWith(TALE_PROOF.slice(0, 10)), `after ${group.map(([kind]) => kind)}: ${JSON.stringify(good)}`);
  }
});

if (EITHER_BACKEND !== "webgpu") {
  test("a load that fails on its way to WebGPU leaves room for the next", async (t) => {
    const { page } = await openClient(t, { expectErrors: [/Failed to load resource/] });
    for (const [kind, code] of [["cut.0~1-", "network"], ["nan", "bad-checkpoint"]]) {
      assert.equal((await tryLoad(page, `/fault/${kind}/${SHARD}/models/tale/`)).code, code, kind);
    }
    const good = await tryLoad(page, `/fault/cut.500000~3/${SHARD}/models/tale/`);
    assert.ok(good.text.startsWith(TALE_PROOF.slice(0, 10)), JSON.stringify(good));
  });
}

test("a server without ranges, without lengths or without HEAD serves well enough", async (t) => {
  const { page } = await openClient(t, { backend: EITHER_BACKEND, expectErrors: [/Failed to load resource/] });
  for (const kind of ["norange", "nolength", "nohead"]) {
    const end = await tryLoad(page, `/fault/${kind}/*/models/tale/`);
    console.log(`    ${kind}: ${JSON.stringify(end)}`);
    assert.ok(end.text.startsWith(TALE_PROOF.slice(0, 10)), `${kind}: ${JSON.stringify(end)}`);
  }
});
