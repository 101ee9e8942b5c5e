// What a chat's turns cost when the key/value cache keeps what they have in common: `./build.sh bench chat`. Ten turns
// with the page's own model in Chromium; ends with 1 if a turn computes more than what is new in it.

import { launch } from "./launch.js";
import { fromTop } from "./paths.js";
import { startServer } from "./server.js";

const TURNS = 10;
const REPLY_TOKENS = 16;

/** What a turn computed. @typedef {{ prompt: number, cached: number, reply: number, promptMs: number }} Turn */

/**
 * The same conversation again and again for every way of asking.
 * @param {import("puppeteer-core").Page} page
 * @param {Record<string, object>} ways options of the requests, by name
 * @returns {Promise<Record<string, Turn[]>>}
 */
const converse = (page, ways) => page.evaluate(async (ways, count, max_tokens) => {
  const { Engine } = /** @type {any} */ (globalThis).bise;
  const engine = await Engine.load("/models/tale/");
  /** @type {Record<string, Turn[]>} */
  const all = {};
  for (const [name, options] of Object.entries(ways)) {
    /** @type {Turn[]} */
    const turns = [];
    // Other openings for each way, so that none profits from the one before.
    let prompt = Array.from({ length: 8 }, (_, i) => 300 + 40 * Object.keys(all).length + i);
    for (let turn = 0; turn < count; turn += 1) {
      const { choices: [{ token_ids: reply }], timings } =
        await engine.completions.create({ prompt, max_tokens, temperature: 1, ignore_eos: true, ...options });
      turns.push({ prompt: prompt.length, cached: timings.cached_tokens, reply: reply.length, promptMs: timings.prompt_ms });
      // The next question: ten tokens that differ from turn to turn.
      prompt = [...prompt, ...reply, ...Array.from({ length: 10 }, (_, i) => 100 + 13 * turn + i)];
    }
    all[name] = turns;
  }
  await engine.dispose();
  return all;
}, ways, TURNS, REPLY_TOKENS);

const server = await startServer({ root: fromTop("target/site"), mounts: { "/pages/": fromTop("tests/browser/pages") } });
const { browser, close } = await launch("chromium");
try {
  const page = await browser.newPage();
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  const conversations = await converse(page, { unseeded: {}, seeded: { seed: 1 } });
  for (const [name, turns] of Object.entries(conversations)) {
    console.log(`${name}: tokens of the prompt, of these computed, and the time to the first token`);
    for (const [i, { prompt, cached, promptMs }] of turns.entries()) {
      console.log(`  turn ${String(i + 1).padStart(2)}  ${String(prompt).padStart(4)}  ${String(prompt - cached).padStart(4)}  ${promptMs.toFixed(0).padStart(6)} ms`);
    }
    const [all, computed] = turns.reduce(([a, c], { prompt, cached }) => [a + prompt, c + prompt - cached], [0, 0]);
    console.log(`  ${computed} of ${all} tokens computed, ${(computed / all).toFixed(3)}`);
    // What no request has computed: the question, and of the reply its last token, or without a draw of its own all of it.
    const fresh = 10 + (name === "unseeded" ? 1 : REPLY_TOKENS);
    if (turns.slice(1).some(({ prompt, cached }) => prompt - cached > fresh)) {
      console.log(`failed: a turn computed more than the ${fresh} tokens that are new in it`);
      process.exitCode = 1;
    }
  }
} finally {
  await close();
  await server.close();
}
