import assert from "node:assert/strict";
import { test } from "node:test";

import { BiseError } from "../../www/bise/errors.js";
import * as openai from "../../www/bise/openai.js";

// Responses are compared as a whole: types would only ask for checks that the comparison makes.
/** @type {any} */
const { chatChunks, chatCompletion, fromChat, fromText, newMeta, textChunks, textCompletion } = openai;

const refused = (/** @type {any} */ message) => (/** @type {unknown} */ error) => {
  assert.ok(error instanceof BiseError && error.code === "bad-request", String(error));
  assert.match(error.message, message);
  return true;
};
const messages = [{ role: "user", content: "hello" }];
const META = { id: "cmpl-1", created: 2, model: "m" };
/** @type {(id: number, token: string, logprob: number) => object} */
const alternative = (id, token, logprob) => ({ id, token, bytes: [...new TextEncoder().encode(token)], logprob });
const output = (/** @type {unknown} */ logprobs = null) => ({
  prompt_ids: [1, 2], ids: [5, 6], text: "é!", finish_reason: "stop", logprobs,
  timings: { prompt_tokens: 2, cached_tokens: 0, prompt_ms: 1, completion_tokens: 2, completion_ms: 1, tokens_per_second: 1 },
});

test("chat: everything known is translated, null means default", () => {
  const signal = new AbortController().signal;
  const given = {
    messages: [...messages, { role: "assistant", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] }],
    temperature: 0.5, top_p: 0.9, top_k: 0, min_p: null, max_completion_tokens: 9, stop: "x", seed: 2 ** 53 - 1,
    logit_bias: { 7: -100 }, repetition_penalty: 1.1, frequency_penalty: 0.1, presence_penalty: undefined, ignore_eos: true,
    logprobs: true, top_logprobs: 3, stream: true, stream_options: { include_usage: true }, signal,
    model: "any", user: "me", n: 1,
  };
  assert.deepEqual(fromChat(given), {
    request: {
      prompt: { messages: [messages[0], { role: "assistant", content: "ab" }] },
      temperature: 0.5, top_p: 0.9, top_k: 0, max_tokens: 9, stop: ["x"], seed: 2 ** 53 - 1, logit_bias: { 7: -100 },
      repetition_penalty: 1.1, frequency_penalty: 0.1, ignore_eos: true, logprobs: 3,
    },
    stream: true, usage: "last", signal,
  });
  assert.deepEqual(fromChat({ messages }), { request: { prompt: { messages } }, stream: false, usage: "none", signal: undefined });
  assert.equal(fromChat({ messages, logprobs: true }).request.logprobs, 0);
  assert.equal(fromChat({ messages, logprobs: false }).request.logprobs, undefined);
});

test("completions: text, token ids, and how many logprobs", () => {
  assert.deepEqual(fromText({ prompt: "x", stop: ["a", "b"], logprobs: 2 }).request, { prompt: { text: "x" }, stop: ["a", "b"], logprobs: 2 });
  assert.deepEqual(fromText({ prompt: [1, 2] }).request.prompt, { ids: [1, 2] });
  assert.deepEqual(fromText({ prompt: "" }).request.prompt, { text: "" });
});

test("what does not fit is refused by name", () => {
  const cases = [
    [{ messages, temprature: 1 }, /no "temprature"; the nearest is "temperature"/],
    [{ messages, maxTokens: 1 }, /nearest is "max_tokens"/],
    [{ messages, tools: [] }, /no "tools"/],
    [{ messages, n: 2 }, /n must be 1, not 2/],
    [{ messages, seed: 1.5 }, /seed must be a whole number/],
    [{ messages, seed: -1 }, /seed/],
    [{ messages, seed: 2 ** 53 }, /seed/],
    [{ messages, temperature: "hot" }, /temperature must be a finite number, not "hot"/],
    [{ messages, temperature: NaN }, /temperature/],
    [{ messages, max_tokens: 1, max_completion_tokens: 1 }, /give one/],
    [{ messages, logprobs: 1 }, /logprobs must be true or false/],
    [{ messages, top_logprobs: 1 }, /needs logprobs/],
    [{ messages, stream_options: { include_usage: true } }, /needs stream: true/],
    [{ messages, stream: true, stream_options: { continuous_usage_stats: true } }, /continuous_usage_stats needs include_usage/],
    [{ messages, stream: true, stream_options: { usage: true } }, /nearest is "include_usage"/],
    [{ messages, stream: 1 }, /stream must be/],
    [{ messages, signal: {} }, /AbortSignal/],
    [{ messages, stop: 3 }, /stop must be a string/],
    [{ messages, stop: ["a", 3] }, /stop\[1\]/],
    [{ messages, logit_bias: [1] }, /logit_bias/],
    [{ messages, logit_bias: { 3: "x" } }, /logit_bias\["3"\]/],
    [{}, /messages must be an array/],
    [{ messages: [] }, /at least one message/],
    [{ messages: ["hello"] }, /messages\[0\] must be an object/],
    [{ messages: [{ role: "user" }] }, /messages\[0\].content/],
    [{ messages: [{ content: "x" }] }, /messages\[0\].role/],
    [{ messages: [{ role: "user", content: "x", name: "y" }] }, /messages\[0\]: there is no "name"/],
    [{ messages: [{ role: "user", content: [{ type: "image_url" }] }] }, /reads text only/],
    ["hello", /must be an object/],
  ];
  for (const [given, message] of cases) assert.throws(() => fromChat(given), refused(message), JSON.stringify(given));
  for (const [given, message] of [
    [{}, /prompt must be/],
    [{ prompt: [1, -2] }, /prompt\[1\]/],
    [{ prompt: ["a"] }, /prompt\[0\]/],
    [{ prompt: "x", logprobs: true }, /logprobs must be a whole number/],
    [{ prompt: "x", top_logprobs: 1 }, /no "top_logprobs"/],
    [{ prompt: "x", messages }, /no "messages"/],
  ]) assert.throws(() => fromText(given), refused(message), JSON.stringify(given));
});

test("chat logprobs have OpenAI's fields only", () => {
  const logprobs = [{ ...alternative(5, "é", -0.1), top: [alternative(5, "é", -0.1), alternative(9, "e", -3)], text_offset: 0 }];
  const plain = (/** @type {string} */ token, /** @type {number} */ logprob, /** @type {number[]} */ bytes) => ({ token, logprob, bytes });
  assert.deepEqual(chatCompletion(META, output(logprobs)).choices[0].logprobs, {
    content: [{ ...plain("é", -0.1, [195, 169]), top_logprobs: [plain("é", -0.1, [195, 169]), plain("e", -3, [101])] }],
  });
  assert.equal(chatCompletion(META, output()).choices[0].logprobs, null);
});

test("text completions have legacy logprobs and token ids", () => {
  const logprobs = [
    { id: 195, token: "\ufffd", bytes: [195], logprob: -1, top: [], text_offset: 0 },
    { id: 169, token: "\ufffd", bytes: [169], logprob: -2, top: [], text_offset: 0 },
    { ...alternative(6, "!", -0.5), top: [alternative(6, "!", -0.5), alternative(7, "?", -1)], text_offset: 1 },
  ];
  const [choice] = textCompletion(META, output(logprobs)).choices;
  assert.deepEqual(choice.token_ids, [5, 6]);
  assert.deepEqual(choice.logprobs, {
    tokens: ["\ufffd", "\ufffd", "!"],
    token_logprobs: [-1, -2, -0.5],
    top_logprobs: [{}, {}, { "!": -0.5, "?": -1 }],
    text_offset: [0, 0, 1],
  });
  const chunks = textChunks(META, "none");
  assert.deepEqual(chunks.next({ text: "rest", id: null, logprobs: null })[0].choices[0].token_ids, []);
  const streamed = logprobs.flatMap((each) => chunks.next({ text: "", id: each.id, logprobs: each }));
  assert.deepEqual(streamed.flatMap((/** @type {any} */ chunk) => chunk.choices[0].logprobs.text_offset), choice.logprobs.text_offset);
  assert.deepEqual(streamed.flatMap((/** @type {any} */ chunk) => chunk.choices[0].token_ids), [195, 169, 6]);
});

test("chunks: nothing for a token without text, usage only if asked for", () => {
  const [without, with_] = [chatChunks(META, "none"), chatChunks(META, "last")];
  assert.deepEqual(without.next({ text: "", id: 1, logprobs: null }), []);
  assert.equal(without.next({ text: "a", id: 1, logprobs: null })[0].choices[0].delta.content, "a");
  assert.equal("usage" in without.first()[0], false);
  assert.equal(with_.first()[0].usage, null);
  assert.equal(without.last(output()).length, 1);
  const [end, usage] = with_.last(output());
  assert.deepEqual([end.choices[0].finish_reason, end.choices[0].delta, end.usage], ["stop", {}, null]);
  assert.deepEqual([usage.choices, usage.usage], [[], { prompt_tokens: 2, completion_tokens: 2, total_tokens: 4 }]);
});

test("usage of every token, with its text or without", () => {
  assert.equal(fromText({ prompt: "x", stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }).usage, "each");
  const deltas = [["a", 5], ["", 6], ["b", null]].map(([text, id]) => ({ text, id, prompt_tokens: 7, logprobs: null }));
  for (const chunks of [chatChunks(META, "each"), textChunks(META, "each")]) {
    assert.deepEqual(chunks.first().map((/** @type {any} */ chunk) => chunk.usage), chunks.first().length === 0 ? [] : [null]);
    const counts = deltas.flatMap((delta) => chunks.next(delta)).map(({ usage }) => usage);
    assert.deepEqual(counts, [1, 2, 2].map((n) => ({ prompt_tokens: 7, completion_tokens: n, total_tokens: 7 + n })));
  }
});

test("ids differ", () => {
  assert.notEqual(newMeta("cmpl", "m").id, newMeta("cmpl", "m").id);
});
