// SmolLM2-135M on the processor, one thread, in Chromium: `node tests/browser/bench_wllama.js`. Beside it wllama
// (llama.cpp in wasm) with the same model in 8-bit blocks, where npm provided it, and what bare loops in the same
// browser read and multiply. Both programs and the loops take turns. Rates are by processor time, of which other
// programs on the machine take little away; beside them by the clock. Ends with 1 where a target is missed.

import binaryen from "binaryen";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./launch.js";
import { processMemory, processorSeconds } from "./memory.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const STARTS = 3;
const RUNS = 3;
/** Tokens that are timed after a short prompt, and after a long one. */
const TOKENS = { short: 64, long: 32 };
/** How often a bare loop goes over its matrix. */
const LOOPS = 40;
const WLLAMA = fromTop(".tools/wllama/node_modules/@wllama/wllama/esm");
const GGUF = fromTop("target/models/smollm2-135m.Q8_0.gguf");
const BUILT = fromTop("target/bench");
/** What wllama did on the 2-core machine that this bench was made for: for a machine where npm has none. */
const RECORDED = { short: 15.8, long: 8.5, prefill: 21, first: 3600, peak: NaN, clock: { short: 15.8, long: 8.5, prefill: 21 }, tokens: [16, 512] };
const TARGETS = { short: 1.8, long: 2, prefill: 3, first: 1, peak: 1 };
const LIMIT_SHARE = 0.8;
const TALE_TOKENS_PER_SECOND = 150;
const TALE_FIRST_MS = 1000;
/** What transformers says of SmolLM2. */
const CHAT = JSON.parse(readFileSync(fromTop("tests/fixtures/vectors/smollm2.json"), "utf8")).cases.find((/** @type {{ name: string }} */ { name }) => name === "chat");

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
 * One request: how long the prompt was, and how fast it and what follows it was by the program's own clock.
 * @typedef {{ promptTokens: number, promptRate: number, rate: number }} Asked
 */

/**
 * A program under test, as functions that run in the page.
 * @typedef {object} Program
 * @property {(model: string, context: number, weights: string) => Promise<void>} load makes `globalThis.ask`
 * @property {string} model
 * @property {number} context positions
 * @property {string} weights in which form
 */

/** @type {Program} */
const BISE = {
  model: "/smollm2/",
  context: 1024,
  weights: "i8",
  load: async (model, context, weights) => {
    const path = "/pkg/index.js";
    const { Engine } = await import(path);
    const engine = await Engine.load(model, { backend: "cpu", contextLength: context, weights });
    const greedy = async (/** @type {number[]} */ prompt, /** @type {number} */ tokens) => {
      const { choices: [{ token_ids }] } = await engine.completions.create({ prompt, temperature: 0, max_tokens: tokens, ignore_eos: true });
      return token_ids;
    };
    const ask = async (/** @type {string} */ prompt, /** @type {number} */ tokens) => {
      const { timings } = await engine.completions.create({ prompt, temperature: 0, max_tokens: tokens, ignore_eos: true });
      return { promptTokens: timings.prompt_tokens, promptRate: (timings.prompt_tokens * 1e3) / timings.prompt_ms, rate: timings.tokens_per_second };
    };
    Object.assign(globalThis, { ask, greedy, info: engine.info });
  },
};

/** @type {Program} */
const WLLAMA_PROGRAM = {
  model: "/gguf/smollm2-135m.Q8_0.gguf",
  context: BISE.context,
  weights: "Q8_0",
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
  const loaded = await page.evaluate(`(${program.load})(${JSON.stringify(program.model)}, ${program.context}, ${JSON.stringify(program.weights)}).then(() => performance.now())`);
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
 * @returns {Promise<Asked & { seconds: number }>} with the processor time
 */
async function ask(page, text, tokens) {
  const before = await processorSeconds(page);
  const asked = await page.evaluate((text, tokens) => /** @type {any} */ (globalThis).ask(text, tokens), text, tokens);
  return { ...asked, seconds: (await processorSeconds(page)) - before };
}

/**
 * One program in a browser of its own.
 * @param {string} url
 * @param {Program} program
 */
async function open(url, program) {
  const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
  const page = await browser.newPage();
  await start(page, url, program); // fills the caches
  let seed = 0;
  /** @type {Record<"short" | "long" | "prefill" | "first" | "clockShort" | "clockLong" | "clockPrefill", number[]>} */
  const seen = { short: [], long: [], prefill: [], first: [], clockShort: [], clockLong: [], clockPrefill: [] };
  const tokens = [0, 0];
  /** @type {any} */
  let info = null;
  return {
    close,
    // As the weights are stored, transformers says those: what is quantised may end a near tie otherwise, late.
    proof: async () => {
      const { ids, [program.weights === "f8" ? "f8" : "checkpoint"]: { greedy } } = CHAT;
      const found = await page.evaluate((ids, tokens) => /** @type {any} */ (globalThis).greedy(ids, tokens), ids, greedy.length);
      const same = found.findIndex((/** @type {number} */ id, /** @type {number} */ i) => id !== greedy[i]);
      if (same >= 0 && same < greedy.length * 0.75) throw new Error(`${program.weights}: not transformers' tokens from ${same} on: ${found}`);
    },
    start: async () => {
      const { first, ...started } = await start(page, url, program);
      info = started.info;
      seen.first.push(first);
    },
    // The prompt alone, and another one with tokens behind it: what is between them the tokens took.
    short: async () => {
      const prompts = await ask(page, prompt(16, (seed += 1)), 1);
      const whole = await ask(page, prompt(16, (seed += 1)), TOKENS.short + 1);
      tokens[0] = whole.promptTokens;
      seen.short.push(TOKENS.short / (whole.seconds - prompts.seconds));
      seen.clockShort.push(whole.rate);
    },
    long: async () => {
      const prompts = await ask(page, prompt(512, (seed += 1)), 1);
      const whole = await ask(page, prompt(512, (seed += 1)), TOKENS.long + 1);
      tokens[1] = whole.promptTokens;
      seen.prefill.push(prompts.promptTokens / prompts.seconds);
      seen.long.push(TOKENS.long / (whole.seconds - prompts.seconds));
      seen.clockPrefill.push(prompts.promptRate);
      seen.clockLong.push(whole.rate);
    },
    results: async () => {
      const { renderer } = await processMemory(page);
      const [short, long, prefill, first] = [seen.short, seen.long, seen.prefill, seen.first].map(median);
      const clock = { short: median(seen.clockShort), long: median(seen.clockLong), prefill: median(seen.clockPrefill) };
      return { short, long, prefill, first, peak: (renderer?.peak ?? NaN) / 2 ** 20, clock, tokens, info };
    },
  };
}

/** Bare loops, and the page's own model, in one browser. @param {string} url */
async function openRest(url) {
  const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
  const page = await browser.newPage();
  const tale = { ...BISE, model: "/models/tale/", context: 512, weights: "i8" };
  /** @type {Record<string, number[]>} elements per second */
  const loops = {};
  /** @type {number[]} */
  const firsts = [];
  /** @type {number[]} */
  const rates = [];
  await start(page, url, tale);
  return {
    close,
    loops: async () => {
      await page.goto(`${url}/pages/blank.html`, { waitUntil: "load" });
      const names = await page.evaluate(async () => {
        const path = "/pages/limits.js";
        const { limitLoops } = await import(path);
        const made = await limitLoops("/built/limits.wasm");
        Object.assign(globalThis, { made });
        for (const loop of Object.values(made)) loop(4); // until it is optimised
        return Object.keys(made);
      });
      for (const name of names) {
        const before = await processorSeconds(page);
        const elements = await page.evaluate((name, runs) => Number(/** @type {any} */ (globalThis).made[name](runs)), name, LOOPS);
        (loops[name] ??= []).push(elements / ((await processorSeconds(page)) - before));
      }
    },
    tale: async () => {
      firsts.push((await start(page, url, tale)).first);
      rates.push((await ask(page, "Once upon a time", 128)).rate);
    },
    results: () => ({
      limits: Object.fromEntries(Object.entries(loops).map(([name, rates]) => [name, median(rates)])),
      first: median(firsts),
      rate: median(rates),
    }),
  };
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
/** @type {{ close: () => Promise<void> }[]} */
const opened = [];
/** @template {{ close: () => Promise<void> }} T @param {T} one */
const keep = (one) => (opened.push(one), one);
try {
  const rest = keep(await openRest(server.url));
  const [integers, fp8] = [keep(await open(server.url, BISE)), keep(await open(server.url, { ...BISE, weights: "f8" }))];
  await integers.proof();
  await fp8.proof();
  const programs = [integers];
  if (hasWllama) programs.push(keep(await open(server.url, WLLAMA_PROGRAM)));
  for (let run = 0; run < STARTS; run += 1) {
    for (const program of programs) await program.start();
    await rest.tale();
  }
  for (let run = 0; run < RUNS; run += 1) {
    for (const program of programs) await program.short();
    await rest.loops();
    await fp8.start();
    await fp8.short();
    for (const program of programs) await program.long();
  }
  const results = await Promise.all(programs.map((program) => program.results()));
  const { limits, ...tale } = rest.results();
  const bise = results[0] ?? RECORDED;
  const other = results[1] ?? RECORDED;
  console.log(hasWllama
    ? `wllama ${JSON.parse(readFileSync(join(WLLAMA, "../package.json"), "utf8")).version}, run here`
    : "npm provided no wllama: its figures are recorded ones, of another machine");
  const row = (/** @type {string[]} */ ...cells) => console.log(cells.map((cell, i) => (i === 0 ? cell.padEnd(46) : cell.padStart(10))).join(""));
  const both = (/** @type {number} */ one, /** @type {number} */ two, /** @type {number} */ times) => [one.toFixed(1), two.toFixed(1), times.toFixed(2)];
  row(`SmolLM2-135M, one thread, medians of ${RUNS}`, "bise", "wllama", "times", "target");
  const [after16, after512] = [0, 1].map((i) => `${bise.tokens[i]} (${other.tokens[i]})`);
  const rates = /** @type {["short" | "long" | "prefill", string][]} */ ([
    ["short", `tokens after ${after16}`],
    ["long", `tokens after ${after512}`],
    ["prefill", `tokens of a prompt of ${after512}`],
  ]);
  for (const [key, name] of rates) {
    // Recorded ones are by the clock, and of another machine: nothing is missed beside them.
    const times = hasWllama ? Number(bise[key]) / Number(other[key]) : NaN;
    row(`${name} per processor second`, ...both(Number(bise[key]), Number(other[key]), times), TARGETS[key].toFixed(1));
    row("  per second", ...both(bise.clock[key], other.clock[key], bise.clock[key] / other.clock[key]));
    check(!hasWllama || times >= TARGETS[key], `${name}: ${times.toFixed(2)} times wllama's, not ${TARGETS[key]}`);
  }
  for (const [key, name] of /** @type {["first" | "peak", string][]} */ ([
    ["first", "first token after opening the page, both models kept, ms"],
    ["peak", "peak memory of the page's process, MiB"],
  ])) {
    const times = Number(other[key]) / Number(bise[key]);
    row(name, ...both(Number(bise[key]), Number(other[key]), times), TARGETS[key].toFixed(1));
    // What was not recorded of a wllama that cannot run here cannot be missed.
    check(!hasWllama || times >= TARGETS[key], `${name}: ${times.toFixed(2)} times wllama's, not ${TARGETS[key]}`);
  }
  for (const [name, rate] of Object.entries(limits)) row(`bare loop, ${name}: G weights per processor second`, (rate / 1e9).toFixed(2));
  // Embeddings and head are one table, which is read as the head, as it is stored.
  const { vocab_size: vocab, hidden_size: hidden } = JSON.parse(readFileSync(join(MODELS.smollm2, "config.json"), "utf8"));
  for (const { info, short } of [results[0], await fp8.results()].filter((each) => each !== undefined)) {
    const [head, linear] = [vocab * hidden, info.parameters - vocab * hidden];
    const form = info.weights === "i8" ? "int8" : "fp8";
    const least = linear / (limits[form] ?? NaN) + head / (limits.bf16 ?? NaN);
    const share = least * Number(short);
    row(`ms a token at those rates (${form}, head BF16); share`, (least * 1e3).toFixed(1), share.toFixed(2), "", LIMIT_SHARE.toFixed(1));
    check(share >= LIMIT_SHARE, `${form}: ${share.toFixed(2)} of the bare loops' speed, not ${LIMIT_SHARE}`);
  }
  row("tale: tokens per second; first token, ms", tale.rate.toFixed(1), tale.first.toFixed(0));
  check(tale.rate >= TALE_TOKENS_PER_SECOND, `tale gives ${tale.rate.toFixed(0)} tokens/s, not ${TALE_TOKENS_PER_SECOND}`);
  check(tale.first <= TALE_FIRST_MS, `tale's first token takes ${tale.first.toFixed(0)} ms, not ${TALE_FIRST_MS}`);
} finally {
  for (const { close } of opened) await close();
  await server.close();
}
