// The least that a load could be: one request, whose pieces go to the device as they come.

/**
 * @typedef {object} Job
 * @property {string} url of a safetensors file
 * @property {number} dataStart where its data begins, bytes
 * @property {{ begin: number, end: number }[]} tensors in the order of the file, from there; a buffer for each
 */

/**
 * How long the second half of the bytes took.
 * @param {Job} job
 * @returns {Promise<{ bytes: number, ms: number }>}
 */
async function load({ url, dataStart, tensors }) {
  const gpu = /** @type {any} */ (navigator).gpu;
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  const device = await adapter.requestDevice();
  const { STORAGE, COPY_DST } = /** @type {any} */ (globalThis).GPUBufferUsage;
  const buffers = tensors.map(({ begin, end }) => device.createBuffer({ size: Math.ceil((end - begin) / 4) * 4, usage: STORAGE | COPY_DST }));
  await device.queue.onSubmittedWorkDone();
  const all = tensors.at(-1)?.end ?? 0;
  let [began, first] = [0, 0];
  const { body } = await fetch(url, { cache: "no-store" });
  if (body === null) throw new Error("no body");
  let at = -dataStart;
  let tensor = 0;
  /** Bytes that do not fill a word of their tensor yet. */
  let rest = new Uint8Array(0);
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    let piece = value;
    if (at < 0) {
      const head = Math.min(piece.length, -at);
      at += head;
      piece = piece.subarray(head);
    }
    while (piece.length > 0) {
      const { begin, end } = /** @type {{ begin: number, end: number }} */ (tensors[tensor]);
      let bytes = piece.subarray(0, end - at);
      piece = piece.subarray(bytes.length);
      const offset = at - begin - rest.length;
      at += bytes.length;
      if (rest.length > 0) {
        const joined = new Uint8Array(rest.length + bytes.length);
        joined.set(rest);
        joined.set(bytes, rest.length);
        bytes = joined;
      }
      const words = at === end ? bytes.length : bytes.length - (bytes.length % 4);
      rest = bytes.slice(words);
      const padded = words % 4 === 0 ? bytes.subarray(0, words) : Uint8Array.from({ length: Math.ceil(words / 4) * 4 }, (_, i) => bytes[i] ?? 0);
      if (padded.length > 0) device.queue.writeBuffer(buffers[tensor], offset, padded);
      if (at === end) tensor += 1;
      if (began === 0 && at >= all / 2) [began, first] = [performance.now(), at];
    }
  }
  await device.queue.onSubmittedWorkDone();
  const ms = performance.now() - began;
  device.destroy();
  return { bytes: at - first, ms };
}

addEventListener("message", ({ data }) => {
  load(data).then((value) => postMessage({ value }), (error) => postMessage({ error: String(error) }));
});
