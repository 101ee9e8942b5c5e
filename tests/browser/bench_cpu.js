// How fast the page's own models are on the processor: `node tests/browser/bench_cpu.js`. First how soon the page answers
// with a warm cache, and how fast, against what it should keep, in a browser without WebGPU and in one with a software
// adapter (ends with 1 where that is missed); then beside WebGPU on that adapter, one engine after the other, in turns. With SmolLM2, if it was made
// (./build.sh test makes it), also on that.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./launch.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const ROUNDS = 3;
/** From the opening of the page to the first token, milliseconds. */
const ANSWER_WITHIN_MS = 1000;
const TOKENS_PER_SECOND_AT_LEAST = 150;
const STARTS = 5;

/** @param {number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

/**
 * Processor time that the browser's processes have taken, in milliseconds.
 * @param {import("puppeteer-core").CDPSession} session of the browser
 */
async function processorMs(session) {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  return processInfo.reduce((sum, { cpuTime }) => sum + 1000 * cpuTime, 0);
}

/**
 * Opens the page and asks its model something as soon as it can be asked: milliseconds from the navigation to the first
 * word, the browser's processor time until then and for the reply, tokens per second from the first to the last, and where
 * it ran.
 * @param {import("puppeteer-core").Page} page
 * @param {string} url
 */
async function visit(page, url) {
  const session = await page.browser().target().createCDPSession();
  const before = await processorMs(session);
  await page.goto(url, { waitUntil: "load" });
  const begun = await page.evaluate(async () => {
    const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (document.querySelector(selector));
    /** @param {() => boolean} isSo */
    const until = (isSo) => new Promise((resolve) => {
      const look = () => { if (isSo()) { seen.disconnect(); resolve(null); } };
      const seen = new MutationObserver(look);
      seen.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
      look();
    });
    const prompt = /** @type {HTMLTextAreaElement} */ (find("#prompt"));
    /** @type {HTMLInputElement} */ (find("#sampling-max_tokens")).value = "128";
    /** @type {HTMLInputElement} */ (find("#sampling-temperature")).value = "0";
    await until(() => !prompt.disabled);
    const ready = performance.now();
    prompt.value = "There was once a king who had three sons.";
    prompt.form?.requestSubmit();
    await until(() => (document.querySelector(".assistant .text")?.textContent ?? "") !== "");
    return { ready, first: performance.now(), ranOn: find("#status-adapter").textContent, why: find("#backend-why").textContent ?? "" };
  });
  const first = await processorMs(session);
  await page.waitForSelector(".turn-foot span");
  const reply = await processorMs(session);
  await session.detach();
  const note = await page.$eval(".turn-foot span", (node) => node.textContent ?? "");
  const [, tokens, rate] = /^(\d+) tokens, (\S+) tokens\/s$/.exec(note) ?? [];
  return { ...begun, tokens: Number(tokens), rate: Number(rate), processorMs: first - before, replyMs: reply - first };
}

/**
 * How soon and how fast the page answers, as a line with the shares of what it should keep.
 * @param {string} where
 * @param {string} url
 * @param {boolean} adapter
 */
async function answers(where, url, adapter) {
  const { browser, close } = await launch("chromium", undefined, { networkEnabled: false, adapter });
  try {
    const page = await browser.newPage();
    await visit(page, url); // fills the HTTP cache
    /** @type {Awaited<ReturnType<typeof visit>>[]} */
    const visits = [];
    for (let i = 0; i < STARTS; i += 1) visits.push(await visit(page, url));
    const odd = visits.find(({ ranOn, tokens, why }) => ranOn !== "CPU, one thread" || !(tokens >= 32) || why.includes("is software") !== adapter);
    if (odd) throw new Error(`not what was to be measured: ${JSON.stringify(odd)}`);
    const of = (/** @type {"ready" | "first" | "rate" | "processorMs" | "replyMs"} */ what) => median(visits.map((each) => each[what]));
    const [first, rate] = [of("first"), of("rate")];
    const tokens = median(visits.map((each) => each.tokens));
    console.log(`the page, ${where} (medians of ${STARTS}): loaded in ${of("ready").toFixed(0)} ms`);
    console.log(`  first word after ${first.toFixed(0)} ms, ${(first / ANSWER_WITHIN_MS).toFixed(2)} of ${ANSWER_WITHIN_MS}; ${of("processorMs").toFixed(0)} ms of processor time in all of the browser`);
    if (first > ANSWER_WITHIN_MS || rate < TOKENS_PER_SECOND_AT_LEAST) process.exitCode = 1;
    console.log(`  then ${rate} tokens/s, ${(rate / TOKENS_PER_SECOND_AT_LEAST).toFixed(2)} x ${TOKENS_PER_SECOND_AT_LEAST}; ${of("replyMs").toFixed(0)} ms of processor time for ${tokens} tokens`);
  } finally {
    await close();
  }
}

const server = await startServer({
  root: fromTop("target/site"),
  mounts: { "/pages/": fromTop("tests/browser/pages"), "/smollm2/": MODELS.smollm2 },
});
await answers("without an adapter", server.url, false);
await answers("with one in software", server.url, true);
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
try {
  const page = await browser.newPage();
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  const models = /** @type {[string, string, string[], number][]} */ ([
    ["tale", "/models/tale/", ["cpu", "webgpu"], 64],
    ["case", "/models/case/", ["cpu"], 64],
  ]);
  if (existsSync(join(MODELS.smollm2, "config.json"))) models.push(["SmolLM2-135M", "/smollm2/", ["cpu"], 32]);
  for (const [name, path, backends, tokens] of models) {
    /** @type {Record<string, { decode: number[], prompt: number[], load: number[] }>} */
    const measured = Object.fromEntries(backends.map((backend) => [backend, { decode: [], prompt: [], load: [] }]));
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const backend of backends) {
        const figures = await page.evaluate(async (path, backend, tokens) => {
          const { Engine } = /** @type {any} */ (globalThis).bise;
          const began = performance.now();
          const engine = await Engine.load(path, { backend, cache: false });
          const load = performance.now() - began;
          const prompt = Array.from({ length: 256 }, (_, i) => 5 + (i * 37) % 900);
          const long = (await engine.completions.create({ prompt, temperature: 0, max_tokens: 1, ignore_eos: true })).timings;
          const short = (await engine.completions.create({ prompt: prompt.slice(100, 116), temperature: 0, max_tokens: tokens, ignore_eos: true })).timings;
          await engine.dispose();
          return { decode: short.tokens_per_second, prompt: 256e3 / long.prompt_ms, load };
        }, path, backend, tokens);
        const kept = measured[backend];
        kept?.decode.push(figures.decode);
        kept?.prompt.push(figures.prompt);
        kept?.load.push(figures.load);
      }
    }
    for (const [backend, { decode, prompt, load }] of Object.entries(measured)) {
      console.log(`${name}, ${backend}: ${median(decode).toFixed(1)} tokens/s after 16, prompt of 256 at ${median(prompt).toFixed(0)} tokens/s, loaded in ${median(load).toFixed(0)} ms (medians of ${ROUNDS})`);
    }
  }
} finally {
  await close();
  await server.close();
}
