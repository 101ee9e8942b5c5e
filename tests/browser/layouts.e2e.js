// FP8 checkpoints in this browser against the wide ones that they stand for; all formats are tested natively
// (tests/gpu_model/layouts.rs).

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { openClient } from "./client.js";
import { writeFp8 } from "./fp8_checkpoint.js";

const CHANNEL = {
  suffix: "_scale",
  quantization: {
    quant_method: "compressed-tensors", format: "float-quantized", ignore: ["lm_head"],
    config_groups: { group_0: { targets: ["Linear"], weights: { num_bits: 8, type: "float", symmetric: true, strategy: "channel" } } },
  },
};
/** With one of the fused projections left wide. @type {Parameters<typeof writeFp8>[1]} */
const BLOCK = { suffix: "_scale_inv", quantization: { quant_method: "fp8", weight_block_size: [128, 128] }, block: [128, 128], ignored: "k_proj" };

for (const [name, layout] of Object.entries({ "one scale per row": CHANNEL, "one scale per block": BLOCK })) {
  test(`an FP8 checkpoint with ${name} says what its wide twin says, and stays FP8`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "bise-fp8-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const { bytes, tensors } = writeFp8(folder, layout);
    const { page } = await openClient(t, { mounts: { "/made/": folder } });
    const run = (/** @type {string} */ model) => page.evaluate(async (model) => {
      const { Engine, inspect } = /** @type {any} */ (globalThis).bise;
      const { memory } = await inspect(model, { weights: "checkpoint", backend: "webgpu" });
      const engine = await Engine.load(model, { weights: "checkpoint" });
      const prompt = "There was once a king who had three sons, and";
      const { choices: [{ logprobs }] } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 12, ignore_eos: true, logprobs: 5 });
      const { weights } = engine.info.memory;
      await engine.dispose();
      return { backend: engine.info.backend, told: memory.weights, weights, logprobs };
    }, model);
    const [fp8, wide] = [await run("/made/fp8/"), await run("/made/wide/")];
    assert.deepEqual([fp8.backend, fp8.told], ["webgpu", fp8.weights], "what inspect says is what is taken");
    assert.ok(fp8.weights >= bytes && fp8.weights < bytes * 1.01 + 48 * tensors, `${fp8.weights} bytes, for ${bytes}`);
    assert.deepEqual(fp8.logprobs.tokens, wide.logprobs.tokens);
    const apart = fp8.logprobs.token_logprobs.map((/** @type {number} */ each, /** @type {number} */ i) => Math.abs(each - wide.logprobs.token_logprobs[i]));
    console.log(`    ${name}: ${fp8.weights} bytes, ${wide.weights} wide; log-probabilities at most ${Math.max(...apart)} apart`);
    assert.equal(apart.length, 12);
    assert.ok(apart.every((/** @type {number} */ each) => each < 5e-3), String(apart));
  });
}
