/** Engine, bridge, worker and queue together, over a fake wasm module. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { loadWith } from "../../www/bise/engine.js";
import { BiseError } from "../../www/bise/errors.js";
import { FakeWorker, Trace, WORDS, fakeWasm } from "./fake_worker.js";

globalThis.location ??= /** @type {any} */ ({ href: "https://site.example/page/" });

const HELLO = [{ role: "user", content: "hello" }];
const code = (/** @type {string} */ wanted, message = /./) => (/** @type {unknown} */ error) => {
  assert.ok(error instanceof BiseError, String(error));
  assert.equal(error.code, wanted);
  assert.match(error.message, message);
  return true;
};

/**
 * @param {import("./fake_worker.js").Faults} [faults]
 * @param {object} [options]
 * @param {() => void} [checkPlatform]
 * @param {string} [name]
 * @returns {Promise<{ engine: any, trace: Trace, worker: any }>} the engine, or the error of its load
 */
async function start(faults, options, checkPlatform, name = "owner/name") {
  const trace = new Trace();
  let worker;
  const engine = await loadWith(name, options, () => {
    worker = new FakeWorker(fakeWasm(trace, faults), checkPlatform, trace);
    return worker;
  }).catch((error) => error);
  return { engine, trace, worker };
}

/** @param {AsyncIterable<any>} stream */
async function collect(stream) {
  /** @type {any[]} */
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

test("a load reaches the engine and reports progress", async () => {
  /** @type {unknown[]} */
  const progress = [];
  const { engine, trace } = await start({}, { weights: "checkpoint", contextLength: 64, onProgress: (/** @type {unknown} */ p) => progress.push(p) });
  assert.equal(engine.info.architecture, "mistral");
  assert.equal(engine.info.adapter.name, "fake adapter");
  assert.deepEqual(progress, [{ phase: "weights", done: 1, total: 2 }]);
  assert.deepEqual(trace.loads, [{
    source: {
      kind: "http", base: "https://huggingface.co/owner/name/resolve/main/",
      listing: "https://huggingface.co/api/models/owner/name/revision/main",
    },
    options: { weights: "checkpoint", contextLength: 64, gpu: { told: { name: "fake adapter", fallback: false, identity: "fake" } }, tunings: '{"fake":[1,2]}' },
  }]);
  assert.equal(await engine.hostMemory(), 1234);
});

test("what tuning has chosen goes into the next load, and what it chose in this one is remembered", async () => {
  const { engine, trace } = await start();
  assert.deepEqual(trace.loads.map((/** @type {any} */ { options }) => options.tunings), ['{"fake":[1,2]}']);
  assert.deepEqual(trace.tunings, [engine.info.tuning]);
  for (const options of [{ autotune: false }, { backend: "cpu" }]) {
    const off = await start({}, options);
    assert.ok(!(/** @type {any} */ (off.trace.loads[0]).options.tunings), "nothing is looked up");
  }
});

test("what does nothing for a model is refused before a worker starts", async () => {
  const spawn = () => assert.fail("a worker was started");
  const files = [new File(["{}"], "config.json")];
  const recipe = { recipe: "model: a/b" };
  for (const model of [files, recipe, { kind: "directory", name: "m", getFileHandle: () => {} }]) {
    await assert.rejects(loadWith(/** @type {any} */ (model), { cache: true }, spawn), code("bad-request", /^cache: only what is fetched is kept/));
  }
  for (const model of ["owner/name", "https://cdn.example/m/", files]) {
    await assert.rejects(loadWith(model, { onTensor: () => {} }, spawn), code("bad-request", /^onTensor: /));
  }
  // What is so anyway may be asked for.
  const trace = new Trace();
  const engine = await loadWith(recipe, { cache: false, onTensor: () => {} }, () => /** @type {any} */ (new FakeWorker(fakeWasm(trace), undefined, trace)));
  assert.equal(trace.loads.length, 1);
  await engine.dispose();
});

test("a load has a session of the cache, which ends with it, however it ends", async () => {
  const hash = "aB".repeat(32);
  const { trace } = await start({}, { cache: false, integrity: { "model.safetensors": hash } });
  assert.deepEqual(trace.sessions, [{ name: "owner/name", cache: false, integrity: { "model.safetensors": hash.toLowerCase() } }]);
  assert.equal(trace.closed.length, 1);
  assert.equal(trace.closed[0].architecture, "mistral");
  const failed = await start({ failLoad: Object.assign(new Error("no"), { code: "network" }) });
  assert.equal(failed.engine.code, "network");
  assert.deepEqual([failed.trace.sessions[0].cache, failed.trace.closed], [true, [null]]);
});

test("why a model is not kept, and what it waits for, reaches progress and info", async () => {
  /** @type {any[]} */
  const progress = [];
  const options = { onProgress: (/** @type {unknown} */ p) => progress.push(p) };
  const { engine } = await start({}, options, undefined, "owner/note");
  assert.deepEqual(engine.info.cache, { state: "off", note: "no room" });
  assert.deepEqual(progress.map(({ note }) => note), ["no room"]);
  progress.length = 0;
  const busy = await start({}, options, undefined, "owner/busy");
  assert.deepEqual(progress.map(({ note }) => note), ["another tab", undefined]);
  assert.equal(busy.engine.info.cache.state, "stored");
});

test("a chat completion has OpenAI's shape", async () => {
  const { engine, trace } = await start();
  const { id, created, ...rest } = await engine.chat.completions.create({ messages: HELLO, max_tokens: 2, seed: 7 });
  assert.match(id, /^chatcmpl-[0-9a-f]{24}$/);
  assert.ok(Math.abs(created - Date.now() / 1000) < 5);
  assert.deepEqual(trace.requests, [{ prompt: { messages: HELLO }, max_tokens: 2, seed: 7 }]);
  assert.equal(rest.object, "chat.completion");
  assert.equal(rest.model, "owner/name");
  assert.deepEqual(rest.choices, [{ index: 0, message: { role: "assistant", content: "There was" }, finish_reason: "length", logprobs: null }]);
  assert.deepEqual(rest.usage, { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 });
});

test("a stream gives the same text, chunk by chunk", async () => {
  const { engine } = await start();
  const chunks = await collect(await engine.chat.completions.create({ messages: HELLO, stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), WORDS.join(""));
  assert.ok(chunks.every(({ object, id }) => object === "chat.completion.chunk" && id === chunks[0].id));
  assert.deepEqual(chunks.slice(0, -2).map((chunk) => chunk.choices[0].finish_reason), Array(WORDS.length + 1).fill(null));
  assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.total_tokens, 13);
});

test("a stream may be read by several at once, also beyond its end", { timeout: 5000 }, async () => {
  const { engine } = await start();
  const text = (/** @type {any[]} */ ends) => ends.map(({ done, value }) => (done ? null : value.choices[0].text));
  const whole = await engine.completions.create({ prompt: "x", max_tokens: 3, stream: true });
  const ends = await Promise.all(Array.from({ length: 6 }, () => whole.next()));
  assert.deepEqual(text(ends), ["There", " was", " once", "", null, null]);

  const failing = (await start({ failAt: 1, failure: { code: "out-of-memory", message: "no room" } })).engine;
  const cut = await failing.completions.create({ prompt: "x", stream: true });
  const [first, second, third] = await Promise.allSettled([cut.next(), cut.next(), cut.next()]);
  assert.deepEqual([first.status, second.status, third.status], ["fulfilled", "rejected", "fulfilled"]);
  assert.ok(second.status === "rejected" && code("out-of-memory")(second.reason));
  assert.ok(third.status === "fulfilled" && third.value.done, "an error is thrown once");

  const left = await engine.completions.create({ prompt: "x", max_tokens: 100000, stream: true });
  const pending = [left.next(), left.next()];
  await left.return();
  assert.deepEqual((await Promise.all(pending)).map(({ done }) => done), [true, true]);
  assert.ok((await left.next()).done);
});

test("requests run one at a time, in the order of asking", async () => {
  const { engine, trace } = await start();
  /** @type {number[]} */
  const order = [];
  const ask = (/** @type {number} */ max_tokens) => engine.completions.create({ prompt: "x", max_tokens }).then(() => order.push(max_tokens));
  await Promise.all([ask(9), ask(1), ask(5)]);
  assert.deepEqual(order, [9, 1, 5]);
  assert.deepEqual(trace.requests.map(({ max_tokens }) => max_tokens), [9, 1, 5]);
  assert.equal(trace.mostRunning, 1);
});

test("an abort ends a generation within a token and leaves the engine usable", async () => {
  const { engine, trace } = await start();
  const controller = new AbortController();
  const stream = await engine.completions.create({ prompt: "x", max_tokens: 100000, stream: true, signal: controller.signal });
  const seen = [];
  await assert.rejects(async () => {
    for await (const chunk of stream) {
      seen.push(chunk);
      if (seen.length === 3) controller.abort("enough");
    }
  }, (/** @type {any} */ error) => code("aborted")(error) && error.cause === "enough");
  assert.equal(seen.length, 3);
  assert.equal((await engine.completions.create({ prompt: "y", max_tokens: 1 })).choices[0].text, "There");
  assert.equal(trace.aborted, 1);
  assert.equal(trace.mostRunning, 1);
});

test("leaving a for await ends the generation", async () => {
  const { engine, trace } = await start();
  for await (const _ of await engine.completions.create({ prompt: "x", max_tokens: 100000, stream: true })) break;
  await engine.completions.create({ prompt: "y", max_tokens: 1 });
  assert.equal(trace.aborted, 1);
});

test("without an abort a generation goes on to its end", async () => {
  const { engine, trace } = await start();
  await collect(await engine.completions.create({ prompt: "x", max_tokens: 200, stream: true, signal: new AbortController().signal }));
  assert.equal(trace.aborted, 0);
});

test("an aborted request that still waits is never run", async () => {
  const { engine, trace } = await start();
  const controller = new AbortController();
  const first = engine.completions.create({ prompt: "first", max_tokens: 50 });
  const second = engine.completions.create({ prompt: "second", signal: controller.signal });
  const third = engine.completions.create({ prompt: "third", max_tokens: 1 });
  controller.abort();
  await assert.rejects(second, code("aborted"));
  await Promise.all([first, third]);
  assert.deepEqual(trace.requests.map(({ prompt }) => prompt.text), ["first", "third"]);
});

test("a signal aborted beforehand starts nothing", async () => {
  const { engine, trace } = await start();
  await assert.rejects(engine.completions.create({ prompt: "x", signal: AbortSignal.abort() }), code("aborted"));
  await settled();
  assert.equal(trace.requests.length, 0);
  const spawned = loadWith("a/b", { signal: AbortSignal.abort() }, () => assert.fail("a worker was started"));
  await assert.rejects(spawned, code("aborted"));
});

test("an aborted load rejects at once and ends its worker", async () => {
  const trace = new Trace();
  const worker = new FakeWorker(fakeWasm(trace, { slowLoad: true }));
  const controller = new AbortController();
  const load = loadWith("a/b", { signal: controller.signal }, () => worker);
  await settled();
  controller.abort();
  await assert.rejects(load, code("aborted"));
  await settled();
  assert.equal(trace.aborted, 1);
  assert.ok(worker.terminated);
});

test("the engine's errors keep their code, and any but device-lost leaves it usable", async () => {
  const failure = { code: "out-of-memory", message: "no room for 7 bytes" };
  const { engine } = await start({ failAt: 2, failure });
  await assert.rejects(engine.completions.create({ prompt: "x" }), code("out-of-memory", /7 bytes/));
  assert.equal((await engine.completions.create({ prompt: "x", max_tokens: 2 })).usage.completion_tokens, 2);
});

test("after device-lost every waiting and later call fails so, and the worker ends", async () => {
  const { engine, worker } = await start({ failAt: 1, failure: { code: "device-lost", message: "gone" } });
  const calls = [1, 2].map(() => engine.completions.create({ prompt: "x" }));
  for (const call of calls) await assert.rejects(call, code("device-lost"));
  await assert.rejects(engine.chat.completions.create({ messages: HELLO }), code("device-lost"));
  assert.ok(worker.terminated);
});

test("a trap counts as device-lost, whether it is thrown or only seen by the worker", async () => {
  const thrown = await start({ failAt: 0, failure: new WebAssembly.RuntimeError("unreachable") });
  await assert.rejects(thrown.engine.completions.create({ prompt: "x" }), code("device-lost", /unreachable/));
  const seen = await start();
  const call = seen.engine.completions.create({ prompt: "x", max_tokens: 100000 });
  await settled();
  seen.worker.emit({ type: "crashed", message: "unreachable", outOfMemory: false });
  await assert.rejects(call, code("device-lost", /crashed: unreachable/));
  await assert.rejects(seen.engine.hostMemory(), code("device-lost"));
});

test("a worker that never starts is a network failure", async () => {
  const worker = new FakeWorker(fakeWasm(new Trace(), { slowLoad: true }));
  const load = loadWith("a/b", {}, () => worker);
  worker.dispatchEvent(new Event("error"));
  await assert.rejects(load, code("network", /could not be started/));
});

test("a failed load says why and ends its worker", async () => {
  /** @type {[import("./fake_worker.js").Faults, string, RegExp][]} */
  const cases = [
    [{ failLoad: { code: "unsupported-model", message: "a mamba" } }, "unsupported-model", /a mamba/],
    [{ failLoad: { code: "made-up", message: "odd" } }, "device-lost", /odd/],
    [{ failInit: new TypeError("404") }, "network", /wasm module could not be loaded: 404/],
  ];
  for (const [faults, wanted, message] of cases) {
    const { engine: error, worker } = await start(faults);
    code(wanted, message)(error);
    await settled();
    assert.ok(worker.terminated);
  }
  const { engine: error } = await start({}, { backend: "webgpu" }, () => {
    throw new BiseError("no-webgpu", "none here");
  });
  code("no-webgpu", /none here/)(error);
});

test("dispose stops what runs, frees the engine and refuses what comes after", async () => {
  const { engine, trace, worker } = await start();
  const running = engine.completions.create({ prompt: "x", max_tokens: 100000 });
  const waiting = engine.completions.create({ prompt: "y" });
  const ends = [assert.rejects(running, code("aborted")), assert.rejects(waiting, code("bad-request", /disposed/))];
  await settled();
  await engine.dispose();
  await Promise.all(ends);
  assert.equal(trace.freed, 1);
  assert.ok(worker.terminated);
  await assert.rejects(engine.completions.create({ prompt: "x" }), code("bad-request", /disposed/));
  await engine.dispose();
});

test("a request that cannot be cloned is refused and nothing hangs", async () => {
  const { engine, worker } = await start();
  worker.postMessage = () => {
    throw new DOMException("no clone", "DataCloneError");
  };
  await assert.rejects(engine.completions.create({ prompt: "x" }), code("bad-request", /no clone/));
});

test("after a lost device the next load that is left the choice is told, once; others are not", async () => {
  const told = (/** @type {Trace} */ trace) => /** @type {any} */ (trace.loads[0]).options.lost ?? false;
  const lost = { failLoad: { code: "device-lost", message: "gone" } };
  const clear = async () => { while (told((await start({})).trace)); };
  await clear();
  assert.equal((await start(lost)).engine.code, "device-lost");
  assert.equal(told((await start({}, { backend: "webgpu" })).trace), false, "a choice stands");
  assert.equal(told((await start({ failLoad: { code: "network", message: "off" } })).trace), true);
  assert.equal(told((await start({}, { backend: "auto" })).trace), true, "a load that failed for another reason does not count");
  assert.equal(told((await start({})).trace), false, "once");
  // In a reply; what was chosen, and what broke, is no loss.
  const { engine } = await start({ failAt: 1, failure: { code: "device-lost", message: "gone" } });
  await assert.rejects(engine.completions.create({ prompt: "x" }), code("device-lost"));
  assert.equal(told((await start({})).trace), true);
  assert.equal((await start(lost, { backend: "webgpu" })).engine.code, "device-lost");
  assert.equal(told((await start({})).trace), false, "not where WebGPU was asked for");
  assert.equal((await start({ failLoad: new Error("unreachable") })).engine.code, "device-lost");
  assert.equal(told((await start({})).trace), false, "not where the worker broke");
});
