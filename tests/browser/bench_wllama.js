// SmolLM2-135M on the processor, one thread, in Chromium: `node tests/browser/bench_wllama.js`. Beside it wllama
// (llama.cpp in wasm) with the same model in 8-bit blocks, where npm provided it, and what bare loops in the same
// browser read and multiply. Ends with 1 where a target is missed.

import binaryen from "binaryen";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./launch.js";
import { processMemory } from "./memory.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const STARTS = 3;
const RUNS = 3;
const WLLAMA = fromTop(".tools/wllama/node_modules/@wllama/wllama/esm");
const GGUF = fromTop("target/models/smollm2-135m.Q8_0.gguf");
const BUILT = fromTop("target/bench");
/** What wllama did on the 2-core machine that this bench was made for: for a machine where npm has none. */
const RECORDED = { short: 15.8, long: 8.5, prefill: 21, first: 3600, peak: NaN };
const TARGETS = { short: 1.8, long: 2, prefill: 3, first: 1, peak: 1 };
const LIMIT_SHARE = 0.8;
const TALE_TOKENS_PER_SECOND = 150;
const TALE_FIRST_MS = 1000;

const WORDS = "the of and to in is that it was for on are as with his they be at one have this from or had by hot but some what there we can out other were all your when up use how said an each she which do their time if will way about many then them would write like so these her long make thing see him two has look more day could go come did my sound no most number who over know water than call first people may down side been now find any new work part take get place made live where after back little only round man year came show every good me give our under name very through just form much great think say help low line before turn cause same mean move right boy old too does tell set three want air well also play small end put home read hand large add even land here must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near build self earth father".split(" ");

/**
 * Words that are a token each, other ones for each `seed` from the first on: nothing of a prompt is kept from the last.
 * @param {number} count
 * @param {number} seed
 */
function prompt(count, seed) {
  const at = (/** @type {number} */ i) => WORDS[(i * 37 + i * i * 11 + seed * 53) % WORDS.length] ?? "";
  const [first = "", ...rest] = Array.from({ length: count }, (_, i) => at(i));
  return [first[0]?.toUpperCase() + first.slice(1), ...rest].join(" ");
}

/**
 * One request: how long the prompt was, how fast it and what follows it was.
 * @typedef {{ promptTokens: number, promptRate: number, rate: number }} Asked
 */

/**
 * A program under test, as functions that run in the page.
 * @typedef {object} Program
 * @property {(model: string, context: number) => Promise<void>} load makes `globalThis.ask`
 * @property {string} model
 * @property {number} context positions
 */

/** @type {Program} */
const BISE = {
  model: "/smollm2/",
  context: 1024,
  load: async (model, context) => {
    const path = "/pkg/index.js";
    const { Engine } = await import(path);
    const engine = await Engine.load(model, { backend: "cpu", contextLength: context });
    const ask = async (/** @type {string} */ prompt, /** @type {number} */ tokens) => {
      const { timings } = await engine.completions.create({ prompt, temperature: 0, max_tokens: tokens, ignore_eos: true });
      return { promptTokens: timings.prompt_tokens, promptRate: (timings.prompt_tokens * 1e3) / timings.prompt_ms, rate: timings.tokens_per_second };
    };
    Object.assign(globalThis, { ask, info: engine.info });
  },
};

/** @type {Program} */
const WLLAMA_PROGRAM = {
  model: "/gguf/smollm2-135m.Q8_0.gguf",
  context: BISE.context,
  load: async (model, context) => {
    const path = "/wllama/index.js";
    const { Wllama } = await import(path);
    const wllama = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { suppressNativeLog: true });
    await wllama.loadModelFromUrl(new URL(model, location.href).href, { n_ctx: context, n_threads: 1, n_gpu_layers: 0, n_parallel: 1 });
    if (wllama.isMultithread()) throw new Error("wllama took several threads");
    const ask = async (/** @type {string} */ prompt, /** @type {number} */ tokens) => {
      const { timings } = await wllama.createCompletion({ prompt, temperature: 0, max_tokens: tokens, cache_prompt: false, ignore_eos: true });
      const { prompt_n, prompt_ms, predicted_n, predicted_ms } = timings;
      return { promptTokens: prompt_n, promptRate: (prompt_n * 1e3) / prompt_ms, rate: ((predicted_n - 1) * 1e3) / predicted_ms };
    };
    Object.assign(globalThis, { ask, info: null });
  },
};

/** @param {number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/**
 * Loads a program's model right after a navigation, and asks for one token; milliseconds since the navigation.
 * @param {import("puppeteer-core").Page} page
 * @param {string} url
 * @param {Program} program
 */
async function start(page, url, program) {
  await page.goto(`${url}/pages/blank.html`, { waitUntil: "load" });
  const loaded = await page.evaluate(`(${program.load})(${JSON.stringify(program.model)}, ${program.context}).then(() => performance.now())`);
  return page.evaluate(async (prompt, loaded) => {
    const { ask, info } = /** @type {any} */ (globalThis);
    await ask(prompt, 1);
    return { loaded, first: performance.now(), info };
  }, prompt(16, 99), Number(loaded));
}

/**
 * @param {import("puppeteer-core").Page} page
 * @param {string} text
 * @param {number} tokens
 * @returns {Promise<Asked>}
 */
const ask = (page, text, tokens) => page.evaluate((text, tokens) => /** @type {any} */ (globalThis).ask(text, tokens), text, tokens);

/**
 * Medians of one program, in a browser of its own.
 * @param {string} url
 * @param {Program} program
 */
async function measure(url, program) {
  const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
  try {
    const page = await browser.newPage();
    await start(page, url, program); // fills the caches
    const starts = [];
    for (let i = 0; i < STARTS; i += 1) starts.push(await start(page, url, program));
    const short = [];
    const long = [];
    for (let run = 0; run < RUNS; run += 1) {
      short.push(await ask(page, prompt(16, 2 * run + 1), 32));
      long.push(await ask(page, prompt(512, 2 * run + 2), 24));
    }
    const { renderer } = await processMemory(page);
    return {
      short: median(short.map(({ rate }) => rate)),
      long: median(long.map(({ rate }) => rate)),
      prefill: median(long.map(({ promptRate }) => promptRate)),
      first: median(starts.map(({ first }) => first)),
      peak: (renderer?.peak ?? NaN) / 2 ** 20,
      tokens: [short[0]?.promptTokens, long[0]?.promptTokens],
      info: starts[0]?.info,
    };
  } finally {
    await close();
  }
}

/** Bare loops, and the page's own model, in one browser. @param {string} url */
async function measureRest(url) {
  const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
  try {
    const page = await browser.newPage();
    await page.goto(`${url}/pages/blank.html`, { waitUntil: "load" });
    const limits = await page.evaluate(async () => {
      const path = "/pages/limits.js";
      const { measureLimits } = await import(path);
      return /** @type {Record<string, number>} */ (await measureLimits("/built/limits.wasm"));
    });
    const tale = { ...BISE, model: "/models/tale/", context: 512 };
    await start(page, url, tale);
    const starts = [];
    for (let i = 0; i < STARTS; i += 1) starts.push((await start(page, url, tale)).first);
    const rates = [];
    for (let run = 0; run < RUNS; run += 1) rates.push((await ask(page, "Once upon a time", 64)).rate);
    return { limits, first: median(starts), rate: median(rates) };
  } finally {
    await close();
  }
}

/** @param {boolean} holds @param {string} what */
function check(holds, what) {
  if (holds) return;
  console.log(`missed: ${what}`);
  process.exitCode = 1;
}

mkdirSync(BUILT, { recursive: true });
const module = binaryen.parseText(readFileSync(fromTop("tests/browser/pages/limits.wat"), "utf8"));
module.setFeatures(binaryen.Features.SIMD128);
writeFileSync(join(BUILT, "limits.wasm"), module.emitBinary());

const hasWllama = existsSync(WLLAMA) && existsSync(GGUF);
const server = await startServer({
  root: fromTop("target/site"),
  mounts: {
    "/pages/": fromTop("tests/browser/pages"),
    "/smollm2/": MODELS.smollm2,
    "/gguf/": fromTop("target/models"),
    "/built/": BUILT,
    ...(hasWllama ? { "/wllama/": WLLAMA } : {}),
  },
});
try {
  const rest = await measureRest(server.url);
  const bise = await measure(server.url, BISE);
  const other = hasWllama ? await measure(server.url, WLLAMA_PROGRAM) : { ...RECORDED, tokens: [16, 512] };
  console.log(hasWllama
    ? `wllama ${JSON.parse(readFileSync(join(WLLAMA, "../package.json"), "utf8")).version}, run here`
    : "npm provided no wllama: its figures are recorded ones, of another machine");
  const row = (/** @type {string[]} */ ...cells) => console.log(cells.map((cell, i) => (i === 0 ? cell.padEnd(40) : cell.padStart(10))).join(""));
  row(`SmolLM2-135M, one thread, medians of ${RUNS}`, "bise", "wllama", "times", "target");
  const lines = /** @type {[keyof typeof TARGETS, string, boolean][]} */ ([
    ["short", `tokens/s after ${bise.tokens[0]} (${other.tokens[0]})`, true],
    ["long", `tokens/s after ${bise.tokens[1]} (${other.tokens[1]})`, true],
    ["prefill", `prompt, tokens/s, of ${bise.tokens[1]} (${other.tokens[1]})`, true],
    ["first", "first token after opening the page, ms", false],
    ["peak", "peak memory of the page's process, MiB", false],
  ]);
  for (const [key, name, isRate] of lines) {
    const times = isRate ? bise[key] / other[key] : other[key] / bise[key];
    row(name, bise[key].toFixed(1), other[key].toFixed(1), times.toFixed(2), TARGETS[key].toFixed(1));
    check(!(times < TARGETS[key]), `${name}: ${times.toFixed(2)} times wllama, not ${TARGETS[key]}`);
  }
  const elements = bise.info.parameters;
  console.log(`bare loops over as many weights (${(elements / 1e6).toFixed(1)} million) in this browser:`);
  for (const [name, rate] of Object.entries(rest.limits)) {
    const ms = (elements * 1e3) / rate;
    row(`  ${name}, G/s; ms; share reached`, (rate / 1e9).toFixed(2), ms.toFixed(1), ((ms * bise.short) / 1e3).toFixed(2));
  }
  const share = (elements / (rest.limits.fp8 ?? NaN)) * bise.short;
  check(share >= LIMIT_SHARE, `${share.toFixed(2)} of the bare FP8 product, not ${LIMIT_SHARE}`);
  row("tale: tokens/s; first token, ms", rest.rate.toFixed(1), rest.first.toFixed(0));
  check(rest.rate >= TALE_TOKENS_PER_SECOND, `tale gives ${rest.rate.toFixed(0)} tokens/s, not ${TALE_TOKENS_PER_SECOND}`);
  check(rest.first <= TALE_FIRST_MS, `tale's first token takes ${rest.first.toFixed(0)} ms, not ${TALE_FIRST_MS}`);
} finally {
  await server.close();
}
