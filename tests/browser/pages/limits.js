// What one thread of this browser reads and multiplies at most: bare loops in wasm SIMD over a matrix. Written
// by hand and apart from the engine, so that they bound it from outside.

/** Rows and columns of the matrix, in bytes: more than caches hold. */
const ROWS = 4096;
const COLS = 8192;

/**
 * The loops of an assembled limits.wat.
 * @param {string} url
 * @returns {Promise<Record<string, (runs: number) => number>>} what runs a loop so many times, and gives the
 *   elements that it went through
 */
export async function limitLoops(url) {
  const { instance } = await WebAssembly.instantiateStreaming(fetch(url));
  const { memory, ...loops } = /** @type {any} */ (instance.exports);
  // The matrix, then one row of inputs, as f32 or int16.
  const bytes = new Uint8Array(memory.buffer);
  // Codes of normal numbers, as nearly all weights are: processors take many times as long over others.
  for (let i = 0; i < ROWS * COLS; i += 1) bytes[i] = 8 + ((i * 37) % 112);
  new Float32Array(memory.buffer, ROWS * COLS, COLS).fill(1);
  /** @type {Record<string, (runs: number) => number>} */
  const made = {};
  for (const [name, loop] of Object.entries(loops)) {
    made[name] = (runs) => {
      for (let run = 0; run < runs; run += 1) loop(ROWS, COLS, ROWS * COLS);
      return (runs * ROWS * COLS) / (name === "bf16" ? 2 : 1);
    };
  }
  return made;
}
