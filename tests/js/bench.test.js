/** The client's bench, over a fake wasm module. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { benchWith } from "../../www/bise/bench.js";
import { BiseError } from "../../www/bise/errors.js";
import { Bridge } from "../../www/bise/bridge.js";
import { FakeWorker, Trace, fakeWasm } from "./fake_worker.js";

globalThis.location ??= /** @type {any} */ ({ href: "https://site.example/page/" });

/**
 * @param {object} [options]
 * @param {import("./fake_worker.js").Faults} [faults]
 */
async function run(options = {}, faults = {}) {
  const trace = new Trace();
  /** @type {string[]} */
  const said = [];
  const report = await benchWith("owner/name", { onProgress: (what) => said.push(what), ...options }, () => (
    /** @type {any} */ (new FakeWorker(fakeWasm(trace, faults), undefined, trace))
  )).catch((error) => error);
  return { report, trace, said };
}

test("the processor's logits go to the adapter's bench, and both engines end", async () => {
  const { report, trace, said } = await run({ quick: true, rounds: 1 });
  assert.equal(report.deviation, 1e-4);
  assert.equal(report.hostBytes, 1234);
  assert.equal(report.info.adapter.name, "fake adapter");
  assert.deepEqual(trace.loads.map((/** @type {any} */ { options }) => options.backend), ["cpu", "webgpu"]);
  assert.deepEqual(trace.benches, [{ expected: [1, 2], rounds: 1, longest: 2048, quick: true }]);
  assert.deepEqual(said, ["loading on the processor", "loading on the adapter", "comparing logits", "a prompt of 16"]);
  assert.equal(trace.freed, 2);
});

test("wrong logits, a wrong option and an abort are errors with their codes, and engines end", async () => {
  const wrong = await run({}, { failure: Object.assign(new Error("logits are off"), { code: "integrity" }) });
  assert.ok(wrong.report instanceof BiseError);
  assert.equal(wrong.report.code, "integrity");
  assert.equal(wrong.trace.freed, 2);
  for (const options of [{ rouds: 1 }, { rounds: -1 }, { quick: 1 }, { backend: "cpu" }, { weights: "i8" }]) {
    const { report, trace } = await run(options);
    assert.equal(report.code, "bad-request", JSON.stringify(options));
    assert.equal(trace.loads.length, 0);
  }
  const controller = new AbortController();
  const stopped = await run({ signal: controller.signal, onProgress: (/** @type {string} */ what) => what === "comparing logits" && controller.abort() });
  assert.equal(stopped.report.code, "aborted");
  assert.equal(stopped.trace.freed, 2);
  assert.equal((await run({ signal: AbortSignal.abort() })).report.code, "aborted");
});

test("the wasm module without the bench refuses it, and works on", async () => {
  const wasm = fakeWasm(new Trace());
  for (const method of ["bench", "benchLogits"]) delete wasm.WebEngine.prototype[method];
  const bridge = new Bridge(/** @type {any} */ (new FakeWorker(wasm)));
  const source = /** @type {const} */ ({ kind: "http", base: "https://site.example/model/" });
  await bridge.call({ type: "load", source, options: { backend: "cpu" }, name: "model", cache: false, integrity: null });
  for (const call of [{ type: /** @type {const} */ ("logits") }, { type: /** @type {const} */ ("bench"), expected: new Float32Array(1), rounds: 1, longest: 16, quick: true }]) {
    await assert.rejects(bridge.call(call), ({ code, message }) => code === "bad-request" && /has no bench/.test(message));
  }
  assert.equal(await bridge.call({ type: "memory" }), 1234);
  await bridge.close(new BiseError("bad-request", "the end"));
});
