// Checkpoints on another origin, whose server says no more than that any page may read it.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { fromTop } from "./paths.js";
import { startServer } from "./server.js";

const SHARD = "model-00002-of-00003.safetensors";

/**
 * Loads a model from another origin.
 * @param {import("node:test").TestContext} t
 * @param {string} path of the model on the other origin
 * @param {RegExp[]} [expectErrors]
 */
async function loadFromElsewhere(t, path, expectErrors = []) {
  const host = await startServer({ root: fromTop("www"), cors: "plain" });
  t.after(host.close);
  const { page } = await openClient(t, { backend: "auto", expectErrors });
  return page.evaluate(async (model) => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    // The page cannot see this header; if it could, the test would show nothing.
    const probe = await fetch(`${model}config.json`, { headers: { Range: "bytes=0-1" } });
    const hidden = probe.status === 206 && probe.headers.get("content-range") === null;
    const { value: engine, ...end } = await outcome(Engine.load(model, { weights: "checkpoint", network: { attempts: 2, backoffMs: 20 } }));
    if (!engine) return { hidden, ...end, text: "" };
    const text = await proof(engine);
    await engine.dispose();
    return { hidden, ...end, text };
  }, host.url + path);
}

test("a host of another origin that exposes no headers", async (t) => {
  const end = await loadFromElsewhere(t, "/models/tale/");
  assert.ok(end.hidden, "Content-Range is hidden from the page");
  assert.equal(end.code, undefined, end.message);
  assert.ok(end.text.startsWith(TALE_PROOF.slice(0, 10)), end.text);
});

for (const [kind, said] of /** @type {[string, RegExp][]} */ ([["cut.0", /cut|network/i], ["truncate", /cut|bytes/]])) {
  test(`a shard that is ${kind === "cut.0" ? "cut" : "half there"} on such a host`, async (t) => {
    const end = await loadFromElsewhere(t, `/fault/${kind}/${SHARD}/models/tale/`, [/Failed to load resource/]);
    assert.ok(end.hidden);
    assert.ok(["network", "bad-checkpoint"].includes(end.code ?? ""), `${end.code}: ${end.message}`);
    assert.ok(end.message?.includes(SHARD), end.message);
    assert.match(end.message ?? "", said);
  });
}
