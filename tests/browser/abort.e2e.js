// Ending things early, one after the other, and wrongly asked.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { golden } from "./golden.js";

/** Enough tokens to take many seconds on a software adapter. */
const MANY = 400;

test("a load ends when its signal says so, and the next one works", async (t) => {
  const { page } = await openClient(t, { bytesPerSecond: 4e6 });
  const result = await page.evaluate(async () => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const controller = new AbortController();
    const loaded = { bytes: 0, total: 0, late: 0, abortedAt: 0 };
    const onProgress = (/** @type {any} */ { phase, done, total }) => {
      if (controller.signal.aborted) loaded.late += 1;
      if (phase !== "weights" || done < 1e6 || controller.signal.aborted) return;
      Object.assign(loaded, { bytes: done, total, abortedAt: performance.now() });
      controller.abort();
    };
    const end = await outcome(Engine.load("/models/tale/", { signal: controller.signal, onProgress }));
    const tookMs = performance.now() - loaded.abortedAt;
    const early = await outcome(Engine.load("/models/tale/", { signal: AbortSignal.abort() }));
    /** @type {{ phase: string, done: number, total: number }[]} */
    const progress = [];
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint", onProgress: (/** @type {any} */ event) => progress.push(event) });
    const text = await proof(engine);
    return { end, early, loaded, tookMs, text, progress };
  });
  assert.deepEqual([result.end.name, result.end.code, result.early.code], ["BiseError", "aborted", "aborted"]);
  assert.ok(result.loaded.bytes < result.loaded.total, `${result.loaded.bytes} of ${result.loaded.total} bytes`);
  assert.equal(result.loaded.late, 0, "progress after the abort");
  assert.ok(result.tookMs < 500, `took ${result.tookMs} ms`);

  // A whole load tells of every byte, and then of every shader.
  const phases = result.progress.map(({ phase }) => phase);
  assert.deepEqual([...new Set(phases)], ["adapter", "config", "weights", "shaders"]);
  assert.deepEqual(phases, phases.toSorted((a, b) => phases.indexOf(a) - phases.indexOf(b)), "one phase after the other");
  const weights = result.progress.filter(({ phase }) => phase === "weights");
  assert.ok(weights.length > 5 && weights.every(({ done }, i) => done >= (weights[i - 1]?.done ?? 0)), "bytes grow");
  assert.ok(weights.every(({ total }) => total === result.loaded.total) && weights.at(-1)?.done === result.loaded.total);
  const shaders = result.progress.filter(({ phase }) => phase === "shaders");
  const [{ total: kernels = 0 } = {}] = shaders;
  // Those of a prompt: no load waits for the others.
  assert.ok(kernels >= 6, `${kernels} kernels`);
  assert.deepEqual(shaders, Array.from({ length: kernels + 1 }, (_, done) => ({ phase: "shaders", done, total: kernels })));
  assert.ok(result.text.startsWith(TALE_PROOF.slice(0, 10)), result.text);
});

test("generations end within a token, and the engine goes on", async (t) => {
  const { page } = await openClient(t);
  const result = await page.evaluate(async (longPrompt, many) => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const request = { prompt: "Once upon a time", temperature: 0, max_tokens: many, ignore_eos: true };
    /** @type {Record<string, { code?: string, abortMs: number, nextMs: number, tokens: number, text: string }>} */
    const ends = {};
    /** Runs until aborted, and then shows that the engine is free again soon. */
    const note = async (/** @type {string} */ name, /** @type {(signal: AbortSignal, stop: () => void, got: (tokens: number) => void) => Promise<unknown>} */ run) => {
      const controller = new AbortController();
      let [abortedAt, tokens] = [0, 0];
      const stop = () => {
        abortedAt ||= performance.now();
        controller.abort();
      };
      const end = await outcome(run(controller.signal, stop, (count) => { tokens += count; }));
      const abortMs = performance.now() - abortedAt;
      const next = await outcome(proof(engine));
      ends[name] = { code: end.code, abortMs, nextMs: next.ms, tokens, text: next.value };
    };
    const first = await outcome(proof(engine));
    const whole = await outcome(engine.completions.create({ ...request, prompt: longPrompt, max_tokens: 1 }));
    await note("prompt", (signal, stop) => {
      setTimeout(stop, 20);
      return engine.completions.create({ ...request, prompt: longPrompt, signal });
    });
    await note("whole", (signal, stop) => {
      setTimeout(stop, 400);
      return engine.completions.create({ ...request, signal });
    });
    await note("stream", async (signal, stop, got) => {
      for await (const { choices } of await engine.completions.create({ ...request, stream: true, signal })) {
        got(choices[0].token_ids.length);
        if (choices[0].token_ids.length > 0) setTimeout(stop, 100);
      }
    });
    await note("stream's own abort", async (_signal, stop, got) => {
      const stream = await engine.completions.create({ ...request, stream: true });
      for await (const { choices } of stream) {
        got(choices[0].token_ids.length);
        stop();
        stream.abort();
      }
    });
    await note("chat", async (signal, stop, got) => {
      const { prompt, ...rest } = request;
      for await (const { choices } of await engine.chat.completions.create({ ...rest, messages: [{ role: "user", content: prompt }], stream: true, signal })) {
        if (choices[0].delta.content) got(1);
        if (choices[0].delta.content) stop();
      }
    });
    await note("break", async (_signal, stop, got) => {
      let seen = 0;
      for await (const { choices } of await engine.completions.create({ ...request, stream: true })) {
        got(choices[0].token_ids.length);
        seen += 1;
        if (seen < 3) continue;
        stop();
        break;
      }
    });
    await note("before it began", (signal, stop) => {
      stop();
      return engine.completions.create({ ...request, signal });
    });
    return { ends, proofMs: first.ms, promptMs: whole.ms, contextLength: engine.info.contextLength };
  }, golden("tale", "long").input_ids, MANY);

  assert.ok(result.contextLength > MANY + 50, "room for the tokens");
  const perToken = result.proofMs / 6;
  for (const [name, { code, abortMs, nextMs, tokens, text }] of Object.entries(result.ends)) {
    console.log(`    ${name}: ${code ?? "ended"} after ${abortMs.toFixed(0)} ms, ${tokens} tokens seen; the next request took ${nextMs.toFixed(0)} ms (${result.proofMs.toFixed(0)} before)`);
    assert.equal(code, name === "break" ? undefined : "aborted", name);
    assert.ok(abortMs < 1000, name);
    assert.ok(tokens < MANY / 4, `${name}: ${tokens} tokens`);
    // Far less than the rest of the tokens would take; a prompt's tokens run all at once, and to their end.
    const running = name === "prompt" ? result.promptMs : 0;
    assert.ok(nextMs < 1000 + 3 * result.proofMs + 1.5 * running && nextMs < perToken * MANY, `${name}: the next took ${nextMs} ms`);
    assert.ok(text.startsWith(TALE_PROOF.slice(0, 10)), `${name}: ${text}`);
  }
});

test("requests wait for their turn, and one that waits can be taken back", async (t) => {
  const { page } = await openClient(t);
  const result = await page.evaluate(async () => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    /** @type {string[]} */
    const order = [];
    const ask = (/** @type {string} */ name, /** @type {object} */ options) => outcome(
      engine.completions.create({ prompt: "Once upon a time", temperature: 0, ignore_eos: true, ...options }).finally(() => order.push(name)),
    );
    const controller = new AbortController();
    const first = ask("first", { max_tokens: 40 });
    const second = ask("second", { max_tokens: 2 });
    const third = ask("third", { max_tokens: 400, signal: controller.signal });
    const fourth = ask("fourth", { max_tokens: 1 });
    setTimeout(() => controller.abort(), 50);
    const ends = await Promise.all([first, second, third, fourth]);
    return { order, codes: ends.map(({ code }) => code ?? null), counts: ends.map(({ value }) => value?.usage.completion_tokens ?? null), text: await proof(engine) };
  });
  assert.deepEqual(result.order, ["third", "first", "second", "fourth"]);
  assert.deepEqual(result.codes, [null, null, "aborted", null]);
  assert.deepEqual(result.counts, [40, 2, null, 1]);
  assert.ok(result.text.startsWith(TALE_PROOF.slice(0, 10)), result.text);
});

test("what cannot be asked is refused with a reason, before and after dispose", async (t) => {
  const { page } = await openClient(t);
  const result = await page.evaluate(async () => {
    const { BiseError, Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
    const { contextLength, vocab } = engine.info;
    const complete = (/** @type {object} */ options) => outcome(engine.completions.create({ prompt: "Once", max_tokens: 1, ...options }));
    const ends = {
      option: await complete({ temprature: 1 }),
      "load option": await outcome(Engine.load("/models/tale/", { wieghts: "f8" })),
      temperature: await complete({ temperature: -1 }),
      "temperature's kind": await complete({ temperature: "hot" }),
      long: await complete({ prompt: Array.from({ length: contextLength + 1 }, () => 5) }),
      empty: await complete({ prompt: [] }),
      vocabulary: await complete({ prompt: [vocab] }),
      logprobs: await complete({ logprobs: 21 }),
      role: await outcome(engine.chat.completions.create({ messages: [] })),
    };
    const text = await proof(engine);
    const running = outcome(engine.completions.create({ prompt: "Once", max_tokens: 400, ignore_eos: true }));
    setTimeout(() => engine.dispose(), 100);
    const interrupted = await running;
    await engine.dispose();
    const after = await complete({});
    const memory = await outcome(engine.hostMemory());
    return { ends, text, interrupted, after, memory, contextLength, vocab, isError: new BiseError("network", "") instanceof Error };
  });
  const said = {
    option: /"temprature".*"temperature"/,
    "load option": /"wieghts".*"weights"/,
    temperature: /temperature.*-1|-1.*temperature/,
    "temperature's kind": /temperature.*"hot"/,
    long: new RegExp(`${result.contextLength + 1} tokens.*${result.contextLength}`),
    empty: /no tokens/,
    vocabulary: new RegExp(String(result.vocab)),
    logprobs: /21.*20/,
    role: /messages/,
  };
  for (const [name, pattern] of Object.entries(said)) {
    const { code, message } = result.ends[/** @type {keyof typeof result.ends} */ (name)];
    assert.equal(code, "bad-request", `${name}: ${message}`);
    assert.match(message ?? "", pattern, name);
  }
  assert.ok(result.text.startsWith(TALE_PROOF.slice(0, 10)), result.text);
  for (const { code, message } of [result.interrupted, result.after, result.memory]) {
    assert.match(code ?? "", /^(bad-request|aborted)$/, message);
  }
  assert.equal(result.after.code, "bad-request");
  assert.match(result.after.message ?? "", /disposed/);
});
