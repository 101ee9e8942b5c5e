// The largest part of a checkpoint that has to be held at once is tokenizer.json: a load with one as
// large as they come stays within 96 MiB of wasm memory.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { openClient } from "./client.js";
import { MODELS, fromTop } from "./paths.js";

const MIB = 2 ** 20;
const TOKENS = 128_000;
const MERGES = 280_147;

/** tokenizer.json with as many tokens and merges as that of Llama 3.2, and about as long. */
function largeTokenizer() {
  const tokens = [""];
  for (let from = 0, until = 1; tokens.length <= TOKENS; from = until, until = tokens.length) {
    for (const start of tokens.slice(from, until)) tokens.push(...[..."abcdefg"].map((letter) => start + letter));
  }
  const kept = tokens.slice(1, TOKENS + 1);
  // Every way to cut a token gives two tokens.
  const merges = kept.flatMap((token) => Array.from({ length: token.length - 1 }, (_, at) => [token.slice(0, at + 1), token.slice(at + 1)]));
  return JSON.stringify({
    added_tokens: [],
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(kept.map((token, id) => [token, id])), merges: merges.slice(0, MERGES) },
  }, null, 2);
}

test("a load with a large tokenizer stays within 96 MiB", async (t) => {
  const folder = fromTop("target/models/large-tokenizer");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(MODELS.tale)) copyFileSync(join(MODELS.tale, file), join(folder, file));
  writeFileSync(join(folder, "tokenizer.json"), largeTokenizer());
  const { size } = statSync(join(folder, "tokenizer.json"));
  assert.ok(size > 15 * MIB, `${size} bytes of tokenizer.json`);

  const { page } = await openClient(t, { mounts: { "/large/": folder } });
  const measure = (/** @type {string} */ model) => page.evaluate(async (model) => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    const engine = await Engine.load(model);
    const { choices } = await engine.completions.create({ prompt: "abcdefg", temperature: 0, max_tokens: 2, ignore_eos: true, logprobs: 0 });
    const hostMemory = await engine.hostMemory();
    await engine.dispose();
    return { hostMemory, tokens: choices[0].logprobs.tokens };
  }, model);
  const small = await measure("/models/tale/");
  const large = await measure("/large/");
  const mib = (/** @type {number} */ bytes) => (bytes / MIB).toFixed(1);
  console.log(`    wasm memory: ${mib(small.hostMemory)} MiB with tale's own tokenizer, ${mib(large.hostMemory)} MiB with one of ${mib(size)} MiB`);
  assert.ok(large.hostMemory > small.hostMemory + 10 * MIB, "the large tokenizer was read");
  assert.match(large.tokens.join(""), /^[a-g]+$/);
  assert.ok(large.hostMemory < 96 * MIB);
});
