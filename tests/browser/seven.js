// Computed checkpoints through the public client, against the reference in Python.

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { promisify } from "node:util";
import { computeCheckpoint } from "./synthetic.js";
import { fromTop } from "./paths.js";

/** @typedef {import("./synthetic.js").Layout} Layout */
/** @typedef {{ top: [number, number][], log_sum: number }} Step token ids with logits, largest first; log of the sum of all exponentials */
/** @typedef {{ steps: Step[], controls: Step[][], weights: number, seconds: number, peak_bytes: number }} Report */

/** Mistral 7B, one layer of it, and two narrow layers; all with its vocabulary. */
export const CONFIGS = {
  seven: "tests/fixtures/mistral7b/config.json",
  wide: "tests/fixtures/synthetic/wide.json",
  mini: "tests/fixtures/synthetic/mini.json",
};
/** @typedef {keyof typeof CONFIGS} Size */

/** A prompt without meaning, as the weights have none. */
export const PROMPT = [1, 2000, 300, 17, 31_999, 5, 4096, 77];
/** How far logits may be off, as a share of the largest. */
const TOLERANCE = 5e-3;

/** @param {Size} size */
export const configOf = (size) => JSON.parse(readFileSync(fromTop(CONFIGS[size]), "utf8"));

/**
 * A checkpoint's files, for the server's option `computed`.
 * @param {Size} size
 * @param {Layout} layout
 * @param {{ shardBytes?: number, fillerBytes?: number }} [options]
 */
export function checkpoint(size, layout, options = {}) {
  const names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
  const files = Object.fromEntries(names.map((name) => [name, readFileSync(fromTop(`tests/fixtures/mistral7b/${name}`))]));
  return computeCheckpoint({ config: configOf(size), layout, files, ...options });
}

/**
 * What the reference says of the last positions of a sequence.
 * @param {Size} size
 * @param {Layout} layout
 * @param {{ f8?: boolean, ids: number[], last: number, perturb?: string[] }} options
 * @returns {Promise<Report>}
 */
export async function reference(size, layout, { f8 = false, ids, last, perturb = [] }) {
  const installed = fromTop(".tools/venv/bin/python");
  const given = [
    fromTop("tests/seven_billion_reference.py"), fromTop(CONFIGS[size]), "--layout", layout, ...(f8 ? ["--f8"] : []),
    "--ids", ids.join(","), "--last", String(last), ...perturb.flatMap((row) => ["--perturb", row]),
  ];
  const env = { ...process.env, OPENBLAS_NUM_THREADS: "1" }; // it has threads of its own
  const { stdout } = await promisify(execFile)(existsSync(installed) ? installed : "python3", given, { env });
  return JSON.parse(stdout);
}

/** The text of every token that the client names by a text of its own: bytes and twins are left out. */
function namesOfTokens() {
  const { model: { vocab } } = JSON.parse(readFileSync(fromTop("tests/fixtures/mistral7b/tokenizer.json"), "utf8"));
  /** @type {Map<string, number[]>} */
  const owners = new Map();
  for (const [token, id] of Object.entries(vocab)) {
    const text = token.replaceAll("▁", " ");
    owners.set(text, [...(owners.get(text) ?? []), Number(id)]);
  }
  /** @type {Map<number, string>} */
  const names = new Map();
  for (const [text, ids] of owners) {
    if (ids.length === 1 && ids[0] !== undefined && !/^<.*>$/.test(text)) names.set(ids[0], text);
  }
  return names;
}
const NAMES = namesOfTokens();

/**
 * What was generated, by step.
 * @typedef {object} Answer
 * @property {number[]} ids
 * @property {Record<string, number>[]} top log-probabilities of the likeliest tokens, by their text
 */

/**
 * What is wrong with the answer, or null: every step's token where the reference's choice is clear, and the
 * log-probabilities of its 20 likeliest.
 * @param {Answer} answer
 * @param {Step[]} steps
 */
export function disagreement({ ids, top }, steps) {
  if (steps.length === 0 || ids.length !== steps.length || top.length !== steps.length) {
    return `${ids.length} tokens and ${top.length} lists, not ${steps.length}`;
  }
  for (const [i, { top: expected, log_sum }] of steps.entries()) {
    const allowed = TOLERANCE * Math.max(...expected.map(([, logit]) => Math.abs(logit)));
    const [[best, most], [, second]] = /** @type {[[number, number], [number, number]]} */ (/** @type {unknown} */ (expected));
    const chosen = expected.find(([id]) => id === ids[i]);
    if (most - second > 2 * allowed ? ids[i] !== best : !(chosen && most - chosen[1] <= 2 * allowed)) {
      return `step ${i}: token ${ids[i]}, not ${best}`;
    }
    const lowest = Math.min(...expected.map(([, logit]) => logit));
    let compared = 0;
    for (const [id, logit] of expected) {
      const name = NAMES.get(id);
      if (name === undefined) continue;
      const mine = top[i]?.[name];
      // At the edge of the list two close tokens may change places.
      if (mine === undefined && logit - lowest < 2 * allowed) continue;
      const off = Math.abs((mine ?? NaN) - (logit - log_sum));
      if (!(off <= allowed)) return `step ${i}: ${JSON.stringify(name)} (${id}) is off by ${off}, more than ${allowed}`;
      compared += 1;
    }
    if (compared < 12) return `step ${i}: only ${compared} tokens could be compared`;
  }
  return null;
}

/**
 * The largest deviation of an answer that agrees, as a share of the largest logit.
 * @param {Answer} answer
 * @param {Step[]} steps
 */
export function largestDeviation({ top }, steps) {
  const shares = steps.flatMap(({ top: expected, log_sum }, i) => {
    const most = Math.max(...expected.map(([, logit]) => Math.abs(logit)));
    return expected.map(([id, logit]) => Math.abs((top[i]?.[NAMES.get(id) ?? ""] ?? NaN) - (logit - log_sum)) / most);
  });
  return Math.max(...shares.filter((share) => !Number.isNaN(share)));
}

/**
 * One load and one greedy completion in the page; `watch` is called while they go on, with how far they are.
 * @param {import("puppeteer-core").Page} page
 * @param {{ model: unknown, options?: object, prompt?: number[], tokens?: number, interval?: number }} task
 * @param {(progress: { state: string, done: number, total: number, tokens: number }) => void} [watch]
 */
export async function run(page, { model, options = {}, prompt = PROMPT, tokens = 3, interval = 100 }, watch = () => {}) {
  await page.evaluate((model, options, prompt, tokens) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const job = { state: "loading", done: 0, total: 0, tokens: 0, weightsMs: 0, error: "", result: /** @type {any} */ (null) };
    Object.assign(globalThis, { job });
    const began = performance.now();
    let first = 0;
    const onProgress = (/** @type {{ phase: string, done: number, total: number }} */ { phase, done, total }) => {
      if (phase !== "weights") return;
      first ||= performance.now();
      Object.assign(job, { done, total, weightsMs: performance.now() - first });
    };
    const work = async () => {
      const engine = await Engine.load(model, { cache: false, ...options, onProgress });
      const loaded = performance.now();
      const loadMemory = await engine.hostMemory();
      job.state = "generating";
      const request = { prompt, temperature: 0, max_tokens: tokens, ignore_eos: true, logprobs: 20, stream: true };
      const [ids, top] = [/** @type {number[]} */ ([]), /** @type {Record<string, number>[]} */ ([])];
      let timings = null;
      for await (const { choices: [{ token_ids, logprobs }], timings: last } of await engine.completions.create(request)) {
        ids.push(...token_ids);
        top.push(...logprobs?.top_logprobs ?? []);
        timings = last ?? timings;
        job.tokens = ids.length;
      }
      const hostMemory = await engine.hostMemory();
      const { info } = engine;
      await engine.dispose();
      const { weightsMs, total } = job;
      return { ids, top, info, timings, hostMemory, loadMemory, loadMs: loaded - began, weightsMs, weightBytes: total };
    };
    work().then((result) => Object.assign(job, { state: "done", result }), (error) => {
      Object.assign(job, { state: "failed", error: `${error.code}: ${error.message}` });
    });
  }, model, options, prompt, tokens);
  for (;;) {
    const { state, done, total, tokens, error, result } = await page.evaluate(() => /** @type {any} */ (globalThis).job);
    if (state === "done") {
      return /** @type {Answer & { info: any, timings: any, hostMemory: number, loadMemory: number, loadMs: number, weightsMs: number, weightBytes: number }} */ (result);
    }
    if (state === "failed") throw new Error(`after ${done} of ${total} bytes: ${error}`);
    watch({ state, done, total, tokens });
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
}
