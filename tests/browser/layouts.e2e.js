// FP8 checkpoints in this browser against the wide ones that they stand for; all formats are tested natively
// (tests/gpu_model/layouts.rs).

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { openClient } from "./client.js";
import { writeCast, writeFp8 } from "./fp8_checkpoint.js";

const CHANNEL = {
  suffix: "_scale",
  quantization: {
    quant_method: "compressed-tensors", format: "float-quantized", ignore: ["lm_head"],
    config_groups: { group_0: { targets: ["Linear"], weights: { num_bits: 8, type: "float", symmetric: true, strategy: "channel" } } },
  },
};
/** With one of the fused projections left wide. @type {Parameters<typeof writeFp8>[1]} */
const BLOCK = { suffix: "_scale_inv", quantization: { quant_method: "fp8", weight_block_size: [128, 128] }, block: [128, 128], ignored: "k_proj" };

/**
 * Loads a model as it is stored, and lets it speak.
 * @param {import("puppeteer-core").Page} page
 * @param {string} model
 * @param {string} backend
 */
const run = (page, model, backend) => page.evaluate(async (model, backend) => {
  const { Engine, inspect } = /** @type {any} */ (globalThis).bise;
  const { memory } = await inspect(model, { weights: "checkpoint", backend });
  const engine = await Engine.load(model, { weights: "checkpoint", backend });
  // Long enough for products of several tokens, and tokens one by one behind it.
  const prompt = "There was once a king who had three sons, and";
  const { choices: [{ logprobs }] } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 12, ignore_eos: true, logprobs: 5 });
  const { weights } = engine.info.memory;
  await engine.dispose();
  return { backend: engine.info.backend, told: memory.weights, weights, logprobs };
}, model, backend);

/**
 * @param {string} name
 * @param {Awaited<ReturnType<typeof run>>} narrow
 * @param {Awaited<ReturnType<typeof run>>} wide
 */
function assertAlike(name, narrow, wide) {
  assert.deepEqual(narrow.logprobs.tokens, wide.logprobs.tokens);
  const apart = narrow.logprobs.token_logprobs.map((/** @type {number} */ each, /** @type {number} */ i) => Math.abs(each - wide.logprobs.token_logprobs[i]));
  console.log(`    ${name}: ${narrow.weights} bytes, ${wide.weights} wide; log-probabilities at most ${Math.max(...apart)} apart`);
  assert.equal(apart.length, 12);
  assert.ok(apart.every((/** @type {number} */ each) => each < 5e-3), String(apart));
}

for (const [name, layout] of Object.entries({ "one scale per row": CHANNEL, "one scale per block": BLOCK })) {
  test(`an FP8 checkpoint with ${name} says what its wide twin says, and stays FP8`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "bise-fp8-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const { bytes, tensors } = writeFp8(folder, layout);
    const { page } = await openClient(t, { mounts: { "/made/": folder } });
    const [fp8, wide] = [await run(page, "/made/fp8/", "webgpu"), await run(page, "/made/wide/", "webgpu")];
    assert.deepEqual([fp8.backend, fp8.told], ["webgpu", fp8.weights], "what inspect says is what is taken");
    assert.ok(fp8.weights >= bytes && fp8.weights < bytes * 1.01 + 48 * tensors, `${fp8.weights} bytes, for ${bytes}`);
    assertAlike(name, fp8, wide);
    // The processor's own loops, in this browser's SIMD, beside the shaders.
    const [fp8OnCpu, wideOnCpu] = [await run(page, "/made/fp8/", "cpu"), await run(page, "/made/wide/", "cpu")];
    assert.equal(fp8OnCpu.backend, "cpu");
    assertAlike(`${name}, cpu`, fp8OnCpu, wideOnCpu);
    assertAlike(`${name}, cpu and webgpu`, fp8OnCpu, fp8);
  });
}

for (const dtype of /** @type {const} */ (["F16", "F8_E5M2"])) {
  test(`${dtype} without scales says what its wide twin says on the processor`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "bise-cast-"));
    t.after(() => rmSync(folder, { recursive: true }));
    writeCast(folder, dtype);
    const { page } = await openClient(t, { mounts: { "/made/": folder } });
    const [narrow, wide] = [await run(page, "/made/narrow/", "cpu"), await run(page, "/made/wide/", "cpu")];
    assert.deepEqual([narrow.backend, wide.backend], ["cpu", "cpu"]);
    assert.ok(narrow.weights < 0.75 * wide.weights, `${narrow.weights} bytes, ${wide.weights}`);
    assertAlike(dtype, narrow, wide);
    // Negative control: the model that was cut is another one.
    const plain = await run(page, "/models/tale/", "cpu");
    assert.notDeepEqual(plain.logprobs.token_logprobs, narrow.logprobs.token_logprobs);
  });
}
