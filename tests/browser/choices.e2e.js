// Tokens that the device chooses, several passes ahead, are those that are chosen from logits that came back: a request
// for log-probabilities takes the latter way.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient } from "./client.js";

const REQUESTS = [
  { temperature: 0 },
  { temperature: 0, repetition_penalty: 1.3, frequency_penalty: 0.7, presence_penalty: -0.5 },
  { temperature: 0, logit_bias: { 533: -100, 5: 4 } },
  { temperature: 0, logit_bias: { 2: 100 }, ignore_eos: false },
  { temperature: 1, seed: 1, logit_bias: { 2: 6 }, ignore_eos: false },
  ...Array.from({ length: 6 }, (_, seed) => ({ temperature: 1, seed })),
  ...Array.from({ length: 6 }, (_, seed) => ({ temperature: 0.8, seed, top_p: 0.9, repetition_penalty: 1.1 })),
  ...Array.from({ length: 6 }, (_, seed) => ({ temperature: 1.4, seed, top_k: 50, min_p: 0.02, stop: [" a", "."] })),
];

test("a request gets the same tokens with log-probabilities and without", async (t) => {
  const { page } = await openClient(t);
  const answers = await page.evaluate(async (requests) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/");
    const answers = [];
    for (const options of requests) {
      const request = { prompt: "Once upon a time", max_tokens: 16, ignore_eos: true, ...options };
      const ask = async (/** @type {object} */ more) => {
        const { choices: [{ token_ids: ids, text, finish_reason: reason }] } = await engine.completions.create({ ...request, ...more });
        return { ids, text, reason };
      };
      answers.push({ device: await ask({}), host: await ask({ logprobs: 0 }) });
    }
    await engine.dispose();
    return answers;
  }, REQUESTS);
  for (const [i, { device, host }] of answers.entries()) assert.deepEqual(device, host, JSON.stringify(REQUESTS[i]));
  // Other draws would show, and so would a reply that goes on behind its end.
  assert.ok(new Set(answers.map(({ device }) => device.text)).size > 15);
  assert.ok(answers.filter(({ device }) => device.reason === "stop").length >= 3);
});

test("a chat's next turn computes what is new, and an edited one keeps what precedes it", async (t) => {
  const { page } = await openClient(t);
  const turns = await page.evaluate(async () => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load("/models/tale/");
    const turns = [];
    let prompt = [1, 300, 301, 302];
    for (let turn = 0; turn < 10; turn += 1) {
      const { choices: [{ token_ids: reply }], timings } =
        await engine.completions.create({ prompt, temperature: 1, max_tokens: 8, ignore_eos: true });
      turns.push({ computed: timings.prompt_tokens - timings.cached_tokens, prompt: prompt.length });
      prompt = [...prompt, ...reply, 400 + turn, 500, 501];
    }
    const edited = prompt.with(50, 7);
    const { timings } = await engine.completions.create({ prompt: edited, temperature: 1, max_tokens: 1 });
    await engine.dispose();
    return { turns, edited: timings.cached_tokens, length: edited.length };
  });
  // Three tokens of the question, and the reply's last one, which was chosen and not computed.
  assert.deepEqual(turns.turns.map(({ computed }) => computed), [4, ...Array.from({ length: 9 }, () => 4)]);
  assert.equal(turns.turns.at(-1)?.prompt, 4 + 9 * 11);
  assert.equal(turns.edited, 50);
});
