// Saving, over a worker that only notes what it is asked for.

import assert from "node:assert/strict";
import test from "node:test";
import { BiseError } from "../../www/bise/errors.js";
import { loadWith } from "../../www/bise/engine.js";
import { mergeWith } from "../../www/bise/merge.js";
import { saveWith } from "../../www/bise/save.js";
import { FakeWorker, Trace, fakeWasm } from "./fake_worker.js";

globalThis.location ??= /** @type {any} */ ({ href: "https://page.example/chat/" });

/** As much of a directory's handle as crosses to a worker. */
const output = /** @type {any} */ ({ kind: "directory", name: "out" });
const RECIPE = "models: [{model: a/b}, {model: ./c}]\nmerge_method: slerp";

/** @param {string} wanted @param {RegExp} [message] */
const code = (wanted, message = /./) => (/** @type {unknown} */ error) => {
  assert.ok(error instanceof BiseError && error.code === wanted, String(error));
  assert.match(error.message, message);
  return true;
};

/** @param {import("./fake_worker.js").Faults} [faults] */
function workers(faults = {}) {
  const trace = new Trace();
  /** @type {FakeWorker[]} */
  const started = [];
  const spawn = () => {
    started.push(new FakeWorker(fakeWasm(trace, faults)));
    return /** @type {any} */ (started.at(-1));
  };
  return { trace, started, spawn };
}

test("a model is copied in FP8 from where it lies", async () => {
  const { trace, started, spawn } = workers();
  /** @type {unknown[]} */
  const progress = [];
  const report = await saveWith("a/b@v1", { output, shardBytes: 7, token: "secret", hubUrl: "https://hub.example/", onProgress: (each) => progress.push(each) }, spawn);
  assert.deepEqual(report.warnings, ["odd"]);
  assert.deepEqual(progress, [{ file: "model.safetensors", done: 1, total: 2 }]);
  const [{ source, options }] = trace.merges;
  assert.deepEqual(options, { backend: "auto", f8: true, shardBytes: 7, name: "a/b@v1" });
  assert.equal(source.base, "https://hub.example/a/b/resolve/v1/");
  assert.deepEqual(source.headers, { Authorization: "Bearer secret" });
  assert.ok(started.length === 1 && started[0]?.terminated);
});

test("a recipe is merged in FP8, as merge() does", async () => {
  const { trace, spawn } = workers();
  const models = { "./c": "https://elsewhere.example/c/" };
  await saveWith({ recipe: RECIPE, models }, { output }, spawn);
  await mergeWith(RECIPE, { models, output, f8: true }, spawn);
  assert.deepEqual(trace.merges[0], trace.merges[1]);
  assert.equal(trace.merges[0].source.models.get("./c").base, "https://elsewhere.example/c/");
});

test("an engine remembers what it runs, and no secret", async () => {
  /** @type {import("./fake_worker.js").Faults} */
  const faults = {};
  const { trace, spawn } = workers(faults);
  const engine = await loadWith("a/b", { hubUrl: "https://hub.example", token: "secret", headers: { "X-Key": "secret" }, network: { attempts: 2 } }, spawn);
  await engine.save({ output });
  const [{ source, options }] = trace.merges;
  assert.deepEqual(source, { kind: "http", base: "https://hub.example/a/b/resolve/main/", listing: "https://hub.example/api/models/a/b/revision/main", network: { attempts: 2 } });
  assert.deepEqual([options.f8, options.name], [true, "a/b"]);
  // What it is given counts.
  await engine.save({ output, token: "again", network: { attempts: 3 } });
  assert.deepEqual([trace.merges[1].source.headers, trace.merges[1].source.network], [{ Authorization: "Bearer again" }, { attempts: 3 }]);

  // After another merge it is that one; after one that failed it is still the last.
  await engine.replaceWeights({ recipe: RECIPE }, { hubUrl: "https://other.example" });
  await engine.save({ output });
  assert.equal(trace.merges[2].source.recipe, RECIPE);
  assert.equal(trace.merges[2].source.models.get("a/b").base, "https://other.example/a/b/resolve/main/");
  faults.failure = { code: "bad-recipe", message: "no" };
  await assert.rejects(engine.replaceWeights({ recipe: "model: d/e" }), code("bad-recipe"));
  await engine.save({ output });
  assert.equal(trace.merges[3].source.recipe, RECIPE);
  await engine.dispose();
});

test("a list that can be read only once is read once", async () => {
  const { trace, spawn } = workers();
  const files = function* () {
    yield new File(["{}"], "config.json");
    yield new File(["x"], "model.safetensors");
  };
  const engine = await loadWith(files(), {}, spawn);
  await engine.save({ output });
  assert.deepEqual([...trace.merges[0].source.files.keys()], ["config.json", "model.safetensors"]);
  const merged = await loadWith({ recipe: RECIPE, models: { "./c": files() } }, {}, spawn);
  await merged.save({ output });
  assert.deepEqual([...trace.merges[1].source.models.get("./c").files.keys()], ["config.json", "model.safetensors"]);
});

test("what cannot be saved is refused before a worker starts", async () => {
  const spawn = () => assert.fail("a worker was started");
  /** @type {[unknown, any, RegExp][]} */
  const cases = [
    ["a/b", undefined, /output must be/],
    ["a/b", { output: "here" }, /output must be .* not "here"/],
    ["a/b", { output, f8: true }, /save options: there is no "f8"/],
    ["a/b", { output, shardBytes: -1 }, /shardBytes/],
    ["a/b", { output, backend: "gpu" }, /backend/],
    ["a/b", { output, signal: 1 }, /signal/],
    ["a/b", { output, onProgress: 1 }, /onProgress/],
    ["https://host/model/", { output, token: "secret" }, /token: it is sent to the hub alone/],
    [7, { output }, /model must be/],
    [{ recipe: RECIPE, base: 1 }, { output }, /there is no "base"/],
    [[], { output }, /list of files is empty/],
  ];
  for (const [model, options, message] of cases) await assert.rejects(saveWith(/** @type {any} */ (model), options, spawn), code("bad-request", message));
  await assert.rejects(saveWith("a/b", { output, signal: AbortSignal.abort() }, spawn), code("aborted", /^The save was aborted/));
});

test("an abort is waited for, and ends the worker", async () => {
  const { trace, started, spawn } = workers({ slowLoad: true });
  const controller = new AbortController();
  const saving = saveWith("a/b", { output, signal: controller.signal, onProgress: () => controller.abort() }, spawn);
  await assert.rejects(saving, code("aborted"));
  assert.equal(trace.aborted, 1);
  assert.ok(started[0]?.terminated);
});
