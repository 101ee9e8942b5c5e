// What the client computes, against reference values.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient } from "./client.js";
import { GOLDEN, decidedSteps, golden, vocabularyOf, wrongIds, wrongLogprobs } from "./golden.js";

/**
 * The completions of all golden prompts of a model.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 */
function completions(page, model) {
  const prompts = (GOLDEN.models[model] ?? []).map(({ input_ids }) => input_ids);
  return page.evaluate(async (model, prompts) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load(`/models/${model}/`, { weights: "checkpoint" });
    const answers = [];
    for (const prompt of prompts) {
      const { choices, usage } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 48, ignore_eos: true, logprobs: 20 });
      const [{ token_ids: ids, text, logprobs }] = choices;
      answers.push({ ids, text, usage, first: logprobs.top_logprobs[0], count: logprobs.tokens.length });
    }
    await engine.dispose();
    return answers;
  }, model, prompts);
}

for (const model of ["tale", "case"]) {
  test(`${model} continues every golden prompt as the reference does`, async (t) => {
    const { page } = await openClient(t);
    const answers = await completions(page, model);
    const vocabulary = vocabularyOf(model);
    for (const [i, entry] of (GOLDEN.models[model] ?? []).entries()) {
      const answer = answers[i];
      const where = `${model}, ${entry.prompt}`;
      assert.ok(answer, where);
      assert.equal(wrongIds(answer.ids, entry), null, where);
      assert.equal(wrongLogprobs(answer.first, entry, vocabulary), null, where);
      assert.equal(answer.count, 48, where);
      assert.deepEqual(answer.usage, { prompt_tokens: entry.input_ids.length, completion_tokens: 48, total_tokens: entry.input_ids.length + 48 }, where);
      if (decidedSteps(entry) === 48) assert.equal(answer.text, entry.greedy_text, where);

      // The same comparison has to refuse values that are a little wrong.
      const ids = answer.ids.with(Math.min(3, decidedSteps(entry) - 1), 5);
      assert.match(wrongIds(ids, entry) ?? "", /^step 3 of/, where);
      const name = vocabulary[entry.top20[4]?.[0] ?? -1] ?? "";
      const nudged = { ...answer.first, [name]: (answer.first[name] ?? 0) + 0.1 };
      assert.match(wrongLogprobs(nudged, entry, vocabulary) ?? "", /is off by/, where);
      const corrupt = { ...entry, top20: entry.top20.map(([id, logit], k) => /** @type {[number, number]} */ ([id, k === 7 ? logit - 0.1 : logit])) };
      assert.match(wrongLogprobs(answer.first, corrupt, vocabulary) ?? "", /is off by/, where);
    }
  });
}

for (const backend of ["webgpu", "cpu"]) {
  test(`text and chat prompts become the golden ids on ${backend}, and streams say the same as replies`, async (t) => {
    const { page } = await openClient(t);
    const short = golden("tale", "short");
    const unicode = golden("tale", "unicode");
    const chat = golden("tale", "chat");
    const content = chat.text.replace(/^\[INST\] | \[\/INST\]$/g, "");
    const result = await page.evaluate(async (texts, content, backend) => {
      const { Engine } = /** @type {any} */ (globalThis).bise;
      const engine = await Engine.load("/models/tale/", { weights: "checkpoint", backend });
      const common = { temperature: 0, max_tokens: 48, ignore_eos: true };
      const whole = [];
      for (const prompt of texts) whole.push(await engine.completions.create({ ...common, prompt }));
      const reply = await engine.chat.completions.create({ ...common, messages: [{ role: "user", content }] });
      const text = { pieces: "", ids: /** @type {number[]} */ ([]), chunks: 0, usage: null };
      for await (const { choices, usage } of await engine.completions.create({ ...common, prompt: texts[1], stream: true, stream_options: { include_usage: true } })) {
        text.pieces += choices[0]?.text ?? "";
        text.ids.push(...choices[0]?.token_ids ?? []);
        text.chunks += 1;
        text.usage = usage;
      }
      const streamed = { content: "", roles: /** @type {string[]} */ ([]), finish: /** @type {string[]} */ ([]) };
      for await (const { choices } of await engine.chat.completions.create({ ...common, messages: [{ role: "user", content }], stream: true })) {
        streamed.content += choices[0].delta.content ?? "";
        if (choices[0].delta.role) streamed.roles.push(choices[0].delta.role);
        if (choices[0].finish_reason) streamed.finish.push(choices[0].finish_reason);
      }
      return { whole, reply, text, streamed };
    }, [short.text, unicode.text], content, backend);

    for (const [i, entry] of [short, unicode].entries()) {
      assert.equal(result.whole[i].usage.prompt_tokens, entry.input_ids.length);
      assert.equal(wrongIds(result.whole[i].choices[0].token_ids, entry), null);
      assert.equal(result.whole[i].choices[0].text, entry.greedy_text);
    }
    assert.equal(result.reply.usage.prompt_tokens, chat.input_ids.length);
    assert.equal(result.reply.choices[0].message.content, chat.greedy_text);
    assert.equal(result.reply.choices[0].finish_reason, "length");

    assert.equal(result.text.pieces, unicode.greedy_text);
    assert.deepEqual(result.text.ids, result.whole[1].choices[0].token_ids);
    assert.deepEqual(result.text.usage, result.whole[1].usage);
    assert.ok(result.text.chunks >= 48, `${result.text.chunks} chunks`);
    assert.deepEqual(result.streamed, { content: chat.greedy_text, roles: ["assistant"], finish: ["length"] });
  });

  test(`FP8 weights take less memory and generate on ${backend}; a seed decides what is drawn`, async (t) => {
    const { page } = await openClient(t);
    const result = await page.evaluate(async (backend) => {
      const { Engine, proof } = /** @type {any} */ (globalThis).bise;
      const infos = [];
      const proofs = [];
      for (const weights of ["checkpoint", "f8"]) {
        const engine = await Engine.load("/models/tale/", { weights, backend });
        infos.push(engine.info);
        proofs.push(await proof(engine));
        if (weights === "checkpoint") await engine.dispose();
        else {
          const draw = async (/** @type {number} */ seed) => {
            const { choices } = await engine.completions.create({ prompt: "Once upon a time", temperature: 0.8, seed, max_tokens: 24, ignore_eos: true });
            return choices[0].token_ids;
          };
          return { infos, proofs, draws: [await draw(7), await draw(8), await draw(7)] };
        }
      }
      throw new Error("not reached");
    }, backend);
    const [checkpoint, f8] = result.infos;
    console.log(`    weights: ${checkpoint.memory.weights} bytes as stored, ${f8.memory.weights} as FP8; ${JSON.stringify(f8.adapter)}`);
    assert.deepEqual([checkpoint.weights, f8.weights], ["checkpoint", "f8"]);
    assert.ok(f8.memory.weights < 0.75 * checkpoint.memory.weights);
    assert.equal(f8.parameters, checkpoint.parameters);
    for (const text of result.proofs) assert.match(text, /\w/);
    assert.deepEqual(result.draws[0], result.draws[2]);
    assert.notDeepEqual(result.draws[0], result.draws[1]);
  });
}
