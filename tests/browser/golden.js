// The reference values of tests/fixtures/golden.json, and what may differ from them.

import { readFileSync } from "node:fs";
import { fromTop } from "./paths.js";

/**
 * @typedef {object} Golden
 * @property {string} prompt
 * @property {number[]} input_ids
 * @property {[number, number][]} top20 token id and raw logit
 * @property {number[]} greedy_ids
 * @property {string} greedy_text
 * @property {number[]} margins
 */

/** @type {{ prompts: { name: string, text: string, input_ids: number[] }[], models: Record<string, Golden[]> }} */
export const GOLDEN = JSON.parse(readFileSync(fromTop("tests/fixtures/golden.json"), "utf8"));

/** After a step decided by less than this, another order of sums may go another way. */
const MARGIN = 0.005;
/** How far logits may be off, as a share of the largest. */
const TOLERANCE = 5e-3;

/**
 * The golden entry of a prompt, and the prompt's text.
 * @param {string} model
 * @param {string} prompt
 */
export function golden(model, prompt) {
  const entry = GOLDEN.models[model]?.find((each) => each.prompt === prompt);
  const text = GOLDEN.prompts.find(({ name }) => name === prompt)?.text;
  if (!entry || text === undefined) throw new Error(`no golden values for ${model}, ${prompt}`);
  return { ...entry, text };
}

/**
 * How many greedy steps have to agree.
 * @param {Golden} golden
 */
export function decidedSteps({ margins }) {
  const close = margins.findIndex((margin) => margin < MARGIN);
  return close < 0 ? margins.length : close;
}

/**
 * What is wrong with these greedy ids, or null.
 * @param {number[]} ids
 * @param {Golden} golden
 */
export function wrongIds(ids, golden) {
  if (ids.length !== golden.greedy_ids.length) return `${ids.length} ids instead of ${golden.greedy_ids.length}`;
  const decided = golden.greedy_ids.slice(0, decidedSteps(golden));
  const at = decided.findIndex((id, i) => id !== ids[i]);
  return at < 0 ? null : `step ${at} of ${decided.length}: ${ids[at]} instead of ${decided[at]} (margin ${golden.margins[at]})`;
}

/**
 * What is wrong with the log probabilities of the first token, or null. They differ from logits by one
 * constant, so differences between tokens have to agree.
 * @param {Record<string, number>} logprobs by token text, as the client gives them
 * @param {Golden} golden
 * @param {string[]} vocabulary
 */
export function wrongLogprobs(logprobs, golden, vocabulary) {
  const expected = golden.top20.map(([id, logit]) => ({ token: vocabulary[id] ?? "", logit }));
  const [best] = expected;
  if (!best) return "no golden logits";
  const allowed = TOLERANCE * Math.max(...expected.map(({ logit }) => Math.abs(logit)));
  const lowest = Math.min(...expected.map(({ logit }) => logit));
  let compared = 0;
  for (const { token, logit } of expected) {
    const [mine, top] = [logprobs[token], logprobs[best.token]];
    if (mine === undefined || top === undefined) {
      // At the edge of the list two close tokens may change places.
      if (logit - lowest < allowed) continue;
      return `no log probability for ${JSON.stringify(token)}`;
    }
    const off = Math.abs((top - mine) - (best.logit - logit));
    if (!(off <= allowed)) return `${JSON.stringify(token)} is off by ${off}, more than ${allowed}`;
    compared += 1;
  }
  return compared >= 15 ? null : `only ${compared} tokens could be compared`;
}

/**
 * The text of every token of an embedded model, as the client names it.
 * @param {string} model
 */
export function vocabularyOf(model) {
  const { model: { vocab } } = JSON.parse(readFileSync(fromTop(`target/site/models/${model}/tokenizer.json`), "utf8"));
  /** @type {string[]} */
  const names = [];
  for (const [token, id] of Object.entries(vocab)) names[Number(id)] = token.replaceAll("▁", " ");
  return names;
}
