// Models on the processor, in a browser whose WebGPU was taken away.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient, TALE_PROOF } from "./client.js";
import { GOLDEN, decidedSteps, vocabularyOf, wrongIds, wrongLogprobs } from "./golden.js";

for (const model of ["tale", "case"]) {
  test(`${model} continues every golden prompt without WebGPU`, async (t) => {
    const { page } = await openClient(t, { backend: "auto" });
    const prompts = (GOLDEN.models[model] ?? []).map(({ input_ids }) => input_ids);
    const { info, answers } = await page.evaluate(async (model, prompts) => {
      const { useWorker, bise: { Engine } } = /** @type {any} */ (globalThis);
      useWorker("/pages/no-gpu-worker.js");
      const engine = await Engine.load(`/models/${model}/`, { weights: "checkpoint" });
      const answers = [];
      for (const prompt of prompts) {
        const { choices } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 48, ignore_eos: true, logprobs: 20 });
        const [{ token_ids: ids, text, logprobs }] = choices;
        answers.push({ ids, text, first: logprobs.top_logprobs[0] });
      }
      const { info } = engine;
      await engine.dispose();
      return { info, answers };
    }, model, prompts);
    assert.equal(info.backend, "cpu");
    assert.match(info.backendReason, /no WebGPU adapter/);
    assert.match(info.adapter.name, /CPU/);
    const vocabulary = vocabularyOf(model);
    assert.equal(answers.length, 4);
    for (const [i, entry] of (GOLDEN.models[model] ?? []).entries()) {
      const { ids, text, first } = answers[i] ?? assert.fail(`no answer ${i}`);
      const where = `${model}, ${entry.prompt}`;
      assert.equal(wrongIds(ids, entry), null, where);
      assert.equal(wrongLogprobs(first, entry, vocabulary), null, where);
      if (decidedSteps(entry) === 48) assert.equal(text, entry.greedy_text, where);
      // The same comparison has to refuse what is a little wrong.
      const name = vocabulary[entry.top20[4]?.[0] ?? -1] ?? "";
      assert.match(wrongLogprobs({ ...first, [name]: (first[name] ?? 0) + 0.1 }, entry, vocabulary) ?? "", /is off by/, where);
    }
  });
}

test("left the choice, WebGPU runs on hardware alone, and the reason is said", async (t) => {
  const { page } = await openClient(t, { backend: "auto" });
  const { software, hardware } = await page.evaluate(async () => {
    const { useWorker, bise: { Engine, proof } } = /** @type {any} */ (globalThis);
    const run = async () => {
      const engine = await Engine.load("/models/tale/", { weights: "checkpoint" });
      const text = await proof(engine);
      await engine.dispose();
      return { text, info: engine.info };
    };
    const software = await run();
    useWorker("/pages/hardware-worker.js");
    return { software, hardware: await run() };
  });
  assert.deepEqual([software.text, hardware.text], [TALE_PROOF, TALE_PROOF]);
  assert.equal(software.info.backend, "cpu");
  assert.match(software.info.backendReason, /^the only WebGPU adapter here \(.+\) is software/);
  assert.deepEqual([hardware.info.backend, hardware.info.adapter.name, hardware.info.adapter.software], ["webgpu", "hard ware", false]);
  assert.match(hardware.info.backendReason, /graphics adapter/);
});

test("backends are chosen, errors are the same, and a generation stops at once", async (t) => {
  const { page } = await openClient(t);
  const result = await page.evaluate(async () => {
    const { useWorker, bise: { Engine, outcome, proof } } = /** @type {any} */ (globalThis);
    const engine = await Engine.load("/models/tale/", { backend: "cpu" });
    const chosen = engine.info;
    const text = await proof(engine);
    const tooLong = await outcome(engine.completions.create({ prompt: Array(9999).fill(1), max_tokens: 1 }));
    const controller = new AbortController();
    let tokens = 0;
    const stopped = await outcome((async () => {
      const stream = await engine.completions.create({
        prompt: "Once upon a time", temperature: 0, ignore_eos: true, stream: true, signal: controller.signal,
      });
      for await (const chunk of stream) {
        void chunk;
        tokens += 1;
        if (tokens === 3) controller.abort();
      }
    })());
    const again = await proof(engine);
    await engine.dispose();
    useWorker("/pages/no-gpu-worker.js");
    const insisted = await outcome(Engine.load("/models/tale/", { backend: "webgpu" }));
    return { chosen, text, tooLong, stopped, tokens, again, insisted };
  });
  assert.deepEqual([result.chosen.backend, result.chosen.backendReason], ["cpu", null]);
  assert.ok(result.chosen.memory.weights > 1e6 && result.chosen.memory.kvCache > 0);
  assert.deepEqual([result.text, result.again], [TALE_PROOF, TALE_PROOF]);
  assert.equal(result.tooLong.code, "bad-request", result.tooLong.message);
  assert.deepEqual([result.tokens, result.stopped.code], [3, "aborted"], JSON.stringify(result.stopped));
  assert.equal(result.insisted.code, "no-webgpu", result.insisted.message);
});
