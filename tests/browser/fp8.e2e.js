// FP8 decoding in WGSL on this browser's adapter. The fast decoder may rely on what an adapter need not
// keep (subnormal floats, say): where it is not exact, the engine has to have chosen the safe one.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName } from "./launch.js";
import { fromTop } from "./paths.js";

/** @type {Record<string, string[]>} */
const VECTORS = JSON.parse(readFileSync(fromTop("tests/fixtures/vectors/fp8_decode.json"), "utf8"));
const FORMATS = { e4m3: "e4m3fn_f32_bits", e5m2: "e5m2_f32_bits" };

/** Codes that are numbers, with the bits of their values. @param {string} key */
function numbers(key) {
  const all = (VECTORS[key] ?? []).map((bits, code) => ({ code, bits: Number.parseInt(bits, 16) }));
  return all.filter(({ bits }) => (bits & 0x7f800000) !== 0x7f800000);
}

/**
 * Codes that were decoded to other bits than expected; a zero's sign is of no consequence to a product.
 * @param {{ code: number, bits: number }[]} expected
 * @param {number[]} got bits
 */
const wrong = (expected, got) => expected.filter(({ bits }, i) => bits !== got[i] && ((bits | (got[i] ?? 1)) & 0x7fffffff) !== 0).map(({ code }) => code);

test("every FP8 code decodes to its value", async (t) => {
  const { page } = await openClient(t);
  const chosen = await page.evaluate(async () => {
    const engine = await /** @type {any} */ (globalThis).bise.Engine.load("/models/tale/");
    await engine.dispose();
    return engine.info.adapter.fp8Decoder;
  });
  // SwiftShader, on which Chromium runs here, shifts lane by lane.
  assert.equal(chosen, browserName() === "chromium" ? "products" : "fast");
  for (const [format, key] of Object.entries(FORMATS)) {
    const expected = numbers(key);
    assert.ok(expected.length > 240, `${expected.length} codes`);
    for (const decoder of ["fast", "products", "safe"]) {
      // All 256 codes go in; what is no number is not looked at.
      const all = await page.evaluate(async (format, decoder, codes) => {
        const path = "/pkg/wasm/bise.js";
        const wasm = await import(path);
        await wasm.default();
        const values = await wasm.decodeFp8(format, decoder, new Uint8Array(codes));
        return [...new Uint32Array(values.buffer, values.byteOffset, values.length)];
      }, format, decoder, Array.from({ length: 256 }, (_, code) => code));
      assert.equal(all.length, 256);
      const got = expected.map(({ code }) => all[code] ?? NaN);
      const codes = wrong(expected, got);
      console.log(`    ${format}, ${decoder}: ${codes.length} of ${expected.length} codes differ; the engine chose ${chosen}`);
      if (decoder !== "fast" || chosen === "fast") assert.deepEqual(codes, [], `${format}, ${decoder}`);
    }
    // The comparison sees a single bit.
    assert.deepEqual(wrong(expected, expected.map(({ bits }, i) => (i === 9 ? bits ^ 1 : bits))), [expected[9]?.code]);
  }
});
