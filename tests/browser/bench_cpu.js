// How fast the page's own model is on the processor, beside WebGPU on Chromium's software adapter:
// `node tests/browser/bench_cpu.js`. One engine after the other, in turns. With SmolLM2, if it was made
// (./build.sh test makes it), also on that.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./launch.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const ROUNDS = 3;

/** @param {number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

const server = await startServer({
  root: fromTop("target/site"),
  mounts: { "/pages/": fromTop("tests/browser/pages"), "/smollm2/": MODELS.smollm2 },
});
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
try {
  const page = await browser.newPage();
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  const models = /** @type {[string, string, string[], number][]} */ ([["tale", "/models/tale/", ["cpu", "webgpu"], 64]]);
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
