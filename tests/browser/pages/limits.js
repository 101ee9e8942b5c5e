// What one thread of this browser reads and multiplies at most: bare loops in wasm SIMD over a matrix, in
// elements per second. Written by hand and apart from the engine, so that they bound it from outside.

/** Rows and columns of the matrix, one byte an element: more than caches hold. */
const ROWS = 4096;
const COLS = 8192;
const RUNS = 5;

/**
 * Runs the exports of an assembled limits.wat, each the best of several times.
 * @param {string} url
 */
export async function measureLimits(url) {
  const { instance } = await WebAssembly.instantiateStreaming(fetch(url));
  const { memory, read, fp8, int8 } = /** @type {any} */ (instance.exports);
  const elements = ROWS * COLS;
  // The matrix, then one row of inputs, as f32 or int16.
  const bytes = new Uint8Array(memory.buffer);
  // Codes of normal numbers, as nearly all weights are: processors take many times as long over others.
  for (let i = 0; i < elements; i += 1) bytes[i] = 8 + ((i * 37) % 112);
  new Float32Array(memory.buffer, elements, COLS).fill(1);
  /** @type {Record<string, number>} */
  const rates = {};
  for (const [name, loop] of Object.entries({ read, fp8, int8 })) {
    let best = Infinity;
    for (let run = 0; run < RUNS; run += 1) {
      const began = performance.now();
      loop(ROWS, COLS, elements);
      best = Math.min(best, performance.now() - began);
    }
    rates[name] = (elements * 1e3) / best;
  }
  return rates;
}
