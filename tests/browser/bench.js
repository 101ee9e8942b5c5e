// How fast the page's own model is in Chromium: `node tests/browser/bench.js`.
// Prints the rate of generation and the parts of the time to the first token; ends with 1
// below the target, or if the cache was not warm.

import { launch } from "./launch.js";
import { fromTop } from "./paths.js";
import { startServer } from "./server.js";

const TARGET_TOKENS_PER_SECOND = 25;
const STARTS = 3;
const RUNS = 5;
const TOKENS = 64;
/** What a server may send to a browser that has everything: some answers "not modified". */
const WARM_BYTES_AT_MOST = 10_000;

/**
 * Loads the model right after a navigation, and generates.
 * @param {import("puppeteer-core").Page} page
 * @param {string} url
 * @param {number} runs
 */
async function measure(page, url, runs) {
  await page.goto(url, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  return page.evaluate(async (runs, tokens) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const script = performance.now();
    /** @type {Record<string, number>} */
    const begins = {};
    const engine = await Engine.load("/models/tale/", {
      onProgress: (/** @type {{ phase: string }} */ { phase }) => { begins[phase] ??= performance.now(); },
    });
    const loaded = performance.now();
    const request = { prompt: "Once upon a time", temperature: 0, max_tokens: tokens, ignore_eos: true };
    const stream = await engine.completions.create({ ...request, stream: true });
    await stream.next();
    const first = performance.now();
    for await (const chunk of stream) void chunk;
    const rates = [];
    for (let i = 0; i < runs; i += 1) rates.push((await engine.completions.create(request)).timings.tokens_per_second);
    const adapter = engine.info.adapter.name;
    await engine.dispose();
    return { script, begins, loaded, first, rates, adapter };
  }, runs, TOKENS);
}

/**
 * The parts of the time to the first token, in order.
 * @param {Awaited<ReturnType<typeof measure>>} measured
 * @returns {[string, number][]}
 */
function parts({ script, begins, loaded, first }) {
  const { adapter = 0, config = 0, weights = 0, shaders = 0 } = begins;
  // A phase ends where the next one begins, and the phases may come in any order. Shaders compile
  // from before the first weights on: their own phase is what that takes longer.
  const phases = /** @type {[string, number][]} */ ([["adapter", adapter], ["config", config], ["weights", weights], ["shaders", shaders]]);
  phases.sort(([, a], [, b]) => a - b);
  const marks = /** @type {[string, number][]} */ ([["page and scripts", 0], ["worker and wasm", script], ...phases, ["prompt and first token", loaded], ["", first]]);
  return marks.slice(0, -1).map(([name, begin], i) => [name, (marks[i + 1]?.[1] ?? begin) - begin]);
}

/** @param {number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

/** @param {string} why */
function fail(why) {
  console.log(`failed: ${why}`);
  process.exitCode = 1;
}

const server = await startServer({ root: fromTop("target/site"), mounts: { "/pages/": fromTop("tests/browser/pages") } });
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
try {
  const page = await browser.newPage();
  const url = `${server.url}/pages/client.html`;
  const sent = () => server.log.reduce((sum, { bytes }) => sum + bytes, 0);
  await measure(page, url, 0); // fills the HTTP cache
  const cold = sent();
  const starts = [];
  for (let i = 1; i < STARTS; i += 1) starts.push(await measure(page, url, 0));
  const last = await measure(page, url, RUNS);
  starts.push(last);
  const middle = median(starts.map(({ first }) => first));
  const measured = { ...(starts.find(({ first }) => first === middle) ?? last), rates: last.rates };
  const warm = sent() - cold;
  const rate = median(measured.rates);
  const row = (/** @type {string} */ name, /** @type {string} */ value) => console.log(`${name.padEnd(34)}${value.padStart(12)}`);
  row("adapter", measured.adapter);
  for (const [name, ms] of parts(measured)) row(name, `${ms.toFixed(0)} ms`);
  row("time to first token, cache warm", `${measured.first.toFixed(0)} ms`);
  row(`  median of ${STARTS} starts, each`, starts.map(({ first }) => first.toFixed(0)).join(" "));
  row("  bytes sent, cache cold, all warm", `${cold}, ${warm}`);
  row(`tokens/s, median of ${RUNS} x ${TOKENS}`, rate.toFixed(1));
  row("  each", measured.rates.map((/** @type {number} */ each) => each.toFixed(1)).join(" "));
  row(`  of the target ${TARGET_TOKENS_PER_SECOND}`, `${(rate / TARGET_TOKENS_PER_SECOND).toFixed(2)} x`);
  if (rate < TARGET_TOKENS_PER_SECOND) fail(`slower than ${TARGET_TOKENS_PER_SECOND} tokens/s`);
  if (warm > WARM_BYTES_AT_MOST) fail(`the cache was not warm: the server sent ${warm} bytes`);
} finally {
  await close();
  await server.close();
}
