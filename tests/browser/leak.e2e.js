// Engines come and go in one page and leave nothing behind. Chromium only: only there a test sees
// the workers of a page and the memory of the browser's processes.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName } from "./launch.js";
import { processMemory } from "./memory.js";

const ROUNDS = 12;
/** Buffers of the kernels that choose tokens: there once those are compiled, which no load waits for. */
const CHOOSING = 2;
const MIB = 2 ** 20;

/** @typedef {typeof import("./pages/gpu-counters.js").counts} Counts */

/**
 * Names of the page's workers that live.
 * @param {import("puppeteer-core").Page} page
 */
const workers = (page) => page.workers().map((worker) => worker.url());

/**
 * Lets the page's engines count their GPU buffers, in `state.counts`.
 * @param {import("puppeteer-core").Page} page
 */
async function countGpu(page) {
  await page.evaluate(() => {
    const Original = globalThis.Worker;
    const state = { counts: {} };
    new BroadcastChannel("counts").onmessage = ({ data }) => { state.counts = data; };
    Object.assign(globalThis, { state });
    globalThis.Worker = class extends Original {
      /** @param {string | URL} _script @param {WorkerOptions} [options] */
      constructor(_script, options) {
        super("/pages/counting-worker.js", options);
      }
    };
  });
}

if (browserName() === "chromium") {
  test(`${ROUNDS} engines in one page leave no worker, buffer or memory behind`, async (t) => {
    const { page } = await openClient(t);
    await countGpu(page);
    const round = () => page.evaluate(async () => {
      const { bise, state } = /** @type {any} */ (globalThis);
      const settled = () => new Promise((resolve) => setTimeout(resolve, 30));
      const engine = await bise.Engine.load("/models/tale/");
      const reply = await engine.chat.completions.create({ messages: [{ role: "user", content: "Hello" }], max_tokens: 4, ignore_eos: true });
      // By then all kernels are compiled, as a rule: a worker that waits for the compiler cannot say farewell.
      await engine.completions.create({ prompt: "Once", max_tokens: 96, ignore_eos: true });
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 60);
      const aborted = await bise.outcome(engine.completions.create({ prompt: "Once", max_tokens: 400, ignore_eos: true, signal: controller.signal }));
      const hostMemory = await engine.hostMemory();
      await settled();
      const loaded = state.counts;
      await engine.dispose();
      await settled();
      return { tokens: reply.usage.completion_tokens, code: aborted.code, hostMemory, gpuMemory: engine.info.memory.total, loaded, disposed: state.counts };
    });
    /** @type {Awaited<ReturnType<typeof round>>[]} */
    const rounds = [];
    /** @type {Awaited<ReturnType<typeof processMemory>>[]} */
    const memory = [];
    for (let i = 0; i < ROUNDS; i += 1) {
      rounds.push(await round());
      memory.push(await processMemory(page));
      // A worker ends once the driver has answered: it may be in the middle of compiling a kernel.
      const deadline = Date.now() + 10_000;
      while (workers(page).length > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
      assert.deepEqual(workers(page), [], `round ${i}: workers after dispose`);
    }
    const mib = (/** @type {number | undefined} */ bytes) => ((bytes ?? 0) / MIB).toFixed(1);
    for (const [i, { hostMemory, gpuMemory, loaded, disposed }] of rounds.entries()) {
      console.log(`    ${i + 1}: wasm ${mib(hostMemory)} MiB, on the device ${mib(gpuMemory)} MiB, buffers ${loaded.buffers} (${mib(loaded.bytes)} MiB) -> ${disposed.buffers} after dispose, GPU process ${mib(memory[i]?.GPU?.resident)} MiB, renderers ${mib(memory[i]?.renderer?.resident)} MiB`);
    }
    for (const [i, { tokens, code, loaded, disposed, gpuMemory }] of rounds.entries()) {
      assert.deepEqual([tokens, code], [4, "aborted"], `round ${i}`);
      assert.ok(loaded.buffers > 20 && loaded.bytes >= 0.9 * gpuMemory, `round ${i}: ${JSON.stringify(loaded)} seen`);
      const more = loaded.buffers - (rounds[0]?.loaded.buffers ?? 0);
      assert.ok(Math.abs(more) <= CHOOSING, `round ${i}: ${more} buffers more than in the first`);
      const { created, ...left } = disposed;
      assert.ok(created >= loaded.buffers, `round ${i}: ${created} buffers created`);
      assert.deepEqual(left, { buffers: 0, bytes: 0, devices: 0, abandoned: 0 }, `round ${i}: what dispose left`);
    }
    const [first] = rounds;
    // After a few rounds that warm caches up, a leak of one engine's buffers per round would show. What the compiler
    // takes comes and goes: the least of several rounds counts.
    const least = (/** @type {number} */ from, /** @type {number} */ end) => Math.min(...memory.slice(from, end).map(({ GPU }) => GPU?.resident ?? Infinity));
    const grown = least(-4, Infinity) - least(1, 5);
    assert.ok(grown < 5 * (first?.gpuMemory ?? 0), `the GPU process grew by ${mib(grown)} MiB in seven rounds`);
  });

  test(`${ROUNDS} times a chat, an abort and a chat in one engine take no more memory than three`, async (t) => {
    const { page } = await openClient(t);
    await countGpu(page);
    const seen = await page.evaluate(async (rounds) => {
      const { bise, state } = /** @type {any} */ (globalThis);
      const engine = await bise.Engine.load("/models/tale/");
      const chat = () => engine.chat.completions.create({ messages: [{ role: "user", content: "There was once a king." }], max_tokens: 4, ignore_eos: true, logprobs: true, top_logprobs: 5 });
      const seen = [];
      for (let i = 0; i < rounds; i += 1) {
        await chat();
        const controller = new AbortController();
        const stream = await engine.completions.create({ prompt: "Once", max_tokens: 400, ignore_eos: true, stream: true, signal: controller.signal });
        const { code } = await bise.outcome((async () => {
          for await (const _ of stream) controller.abort();
        })());
        const { usage } = await chat();
        seen.push({ code, tokens: usage.completion_tokens, memory: await engine.hostMemory(), buffers: state.counts.buffers, bytes: state.counts.bytes });
      }
      await engine.dispose();
      return seen;
    }, ROUNDS);
    console.log(`    wasm memory in MiB: ${seen.map(({ memory }) => (memory / MIB).toFixed(2)).join(" ")}`);
    for (const [i, { code, tokens }] of seen.entries()) assert.deepEqual([code, tokens], ["aborted", 4], `round ${i}`);
    const [third, last] = [seen[2], seen.at(-1)];
    // On a slow machine the buffers that choose tokens, of 16 bytes each, come after the third round. One buffer that
    // each round left would be nine.
    const later = last?.buffers === third?.buffers ? 0 : CHOOSING;
    const expected = [(third?.buffers ?? 0) + later, (third?.bytes ?? 0) + 16 * later];
    assert.deepEqual([last?.buffers, last?.bytes], expected, "GPU buffers");
    assert.ok((third?.buffers ?? 0) > 20, `${third?.buffers} buffers seen`);
    assert.equal(last?.memory, third?.memory, "wasm memory grew");
  });

  test("engines of one wasm instance free each buffer, aborted loads included, and reuse its memory", async (t) => {
    const { page } = await openClient(t);
    const result = await page.evaluate(async (rounds) => {
      const paths = ["/pages/gpu-counters.js", "/pkg/wasm/bise.js"];
      const [{ counts }, wasm] = await Promise.all(paths.map((path) => import(path)));
      await wasm.default();
      const source = { kind: "http", base: new URL("/models/tale/", location.href).href };
      const load = (/** @type {AbortController} */ controller, /** @type {(progress: any) => void} */ progress) => wasm.WebEngine.load(source, { backend: "webgpu" }, progress, () => {}, controller.signal);
      const request = { prompt: { text: "Once upon a time" }, temperature: 0, max_tokens: 2, ignore_eos: true };
      const seen = [];
      for (let i = 0; i < rounds; i += 1) {
        const stopped = new AbortController();
        const code = await load(stopped, ({ phase, done }) => {
          if (phase === "weights" && done > 0) stopped.abort();
        }).then(() => "loaded", (/** @type {any} */ error) => error.code);
        const aborted = { ...counts };
        const engine = await load(new AbortController(), () => {});
        const { ids } = await engine.generate(request, () => {}, new AbortController().signal);
        const loaded = { ...counts };
        engine.free();
        seen.push({ code, tokens: ids.length, aborted, loaded, freed: { ...counts }, memory: wasm.wasm_memory() });
      }
      // What the counts are for, they notice: a buffer that only its device's end frees.
      const device = await (await /** @type {any} */ (navigator).gpu.requestAdapter()).requestDevice();
      device.createBuffer({ size: 64, usage: 8 });
      device.destroy();
      return { seen, control: { ...counts } };
    }, 6);
    for (const [i, { code, tokens, aborted, loaded, freed, memory }] of result.seen.entries()) {
      console.log(`    ${i + 1}: ${freed.created} buffers created so far, ${loaded.buffers} -> ${freed.buffers} live, ${freed.abandoned} left to their device, wasm ${(memory / MIB).toFixed(1)} MiB`);
      assert.deepEqual([code, tokens], ["aborted", 2], `round ${i}`);
      assert.ok(loaded.buffers > 20, `round ${i}: ${loaded.buffers} buffers seen`);
      for (const { created: _, ...left } of [aborted, freed]) {
        assert.deepEqual(left, { buffers: 0, bytes: 0, devices: 0, abandoned: 0 }, `round ${i}`);
      }
    }
    const [, second] = result.seen;
    // Less than what one piece of a file more, at another place, takes; four leaked tokenizers take more.
    assert.ok((result.seen.at(-1)?.memory ?? Infinity) <= (second?.memory ?? 0) + 2 * MIB, "wasm memory grew");
    assert.deepEqual([result.control.buffers, result.control.abandoned], [1, 1], "the control");
  });
}
