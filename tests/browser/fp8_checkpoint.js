// tale as an FP8 checkpoint, and the wide checkpoint that it stands for: written into a folder each.

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MODELS } from "./paths.js";

/** @typedef {{ dtype: string, shape: number[], bytes: Buffer }} Tensor */

/** Values of the positive codes of E4M3, by its definition; the last is NaN. */
const VALUES = Array.from({ length: 127 }, (_, code) => {
  const [exponent, fraction] = [code >> 3, (code & 7) / 8];
  return exponent === 0 ? fraction * 2 ** -6 : (1 + fraction) * 2 ** (exponent - 7);
});

/** The nearest code. @param {number} value */
function encode(value) {
  const size = Math.min(Math.abs(value), 448);
  let [low, high] = [0, VALUES.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((VALUES[middle] ?? 0) <= size) low = middle;
    else high = middle;
  }
  const [below, above] = [size - (VALUES[low] ?? 0), (VALUES[high] ?? 0) - size];
  const code = below < above || (below === above && low % 2 === 0) ? low : high;
  return value < 0 ? code | 0x80 : code;
}

/** @returns {Map<string, Tensor>} */
function readTale() {
  /** @type {Map<string, Tensor>} */
  const tensors = new Map();
  for (const name of readdirSync(MODELS.tale).filter((each) => each.endsWith(".safetensors"))) {
    const file = readFileSync(join(MODELS.tale, name));
    const start = 8 + Number(file.readBigUInt64LE(0));
    const { __metadata__, ...header } = JSON.parse(file.toString("utf8", 8, start));
    for (const [tensor, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
      tensors.set(tensor, { dtype, shape, bytes: file.subarray(start + begin, start + end) });
    }
  }
  return tensors;
}

/** @param {Buffer} bytes of BF16 */
function widen(bytes) {
  const bits = Uint32Array.from(new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)), (half) => half << 16);
  return new Float32Array(bits.buffer);
}

/** @param {ArrayBufferView} array */
const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/**
 * @param {string} folder
 * @param {object | null} quantization
 * @param {[string, Tensor][][]} files
 */
function write(folder, quantization, files) {
  mkdirSync(folder, { recursive: true });
  for (const name of ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]) writeFileSync(join(folder, name), readFileSync(join(MODELS.tale, name)));
  const config = JSON.parse(readFileSync(join(MODELS.tale, "config.json"), "utf8"));
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, ...(quantization ? { quantization_config: quantization } : {}) }));
  /** @type {Record<string, string>} */
  const map = {};
  for (const [i, tensors] of files.entries()) {
    const file = `model-0000${i + 1}-of-0000${files.length}.safetensors`;
    /** @type {Record<string, object>} */
    const header = {};
    let at = 0;
    for (const [name, { dtype, shape, bytes }] of tensors) {
      header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
      at += bytes.length;
      map[name] = file;
    }
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    writeFileSync(join(folder, file), Buffer.concat([length, json, ...tensors.map(([, { bytes }]) => bytes)]));
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
}

/**
 * Writes `fp8` and `wide` into a folder: F32 scales in a file of their own behind the weights.
 * @param {string} folder
 * @param {{ quantization: object, suffix: string, block?: [number, number], ignored?: string }} layout without `block`, one scale per row
 */
export function writeFp8(folder, { quantization, suffix, block, ignored }) {
  /** @type {[string, Tensor][][]} */
  const [fp8 = [], scales = [], wide = []] = [[], [], []];
  let bytes = 0;
  for (const [name, tensor] of readTale()) {
    const values = widen(tensor.bytes);
    const [rows = 0, cols = 0] = tensor.shape;
    if (!name.includes("_proj") || (ignored && name.includes(ignored))) {
      fp8.push([name, tensor]);
      wide.push([name, { dtype: "F32", shape: tensor.shape, bytes: bytesOf(values) }]);
      bytes += values.length * (cols === 0 ? 4 : 2);
      continue;
    }
    const [height, width] = block ?? [1, cols];
    const [down, across] = [Math.ceil(rows / height), Math.ceil(cols / width)];
    const blockOf = (/** @type {number} */ i) => Math.floor(Math.floor(i / cols) / height) * across + Math.floor((i % cols) / width);
    const scale = new Float32Array(down * across);
    for (const [i, value] of values.entries()) scale[blockOf(i)] = Math.max(scale[blockOf(i)] ?? 0, Math.abs(value) / 448);
    const codes = Uint8Array.from(values, (value, i) => encode(value / (scale[blockOf(i)] ?? 1)));
    const meant = Float32Array.from(codes, (code, i) => (code & 0x80 ? -1 : 1) * (VALUES[code & 0x7f] ?? 0) * (scale[blockOf(i)] ?? 1));
    fp8.push([name, { dtype: "F8_E4M3", shape: tensor.shape, bytes: bytesOf(codes) }]);
    scales.push([`${name}${suffix}`, { dtype: "F32", shape: block ? [down, across] : [rows, 1], bytes: bytesOf(scale) }]);
    wide.push([name, { dtype: "F32", shape: tensor.shape, bytes: bytesOf(meant) }]);
    bytes += codes.length + rows * across * 4;
  }
  write(join(folder, "fp8"), quantization, [fp8, scales]);
  write(join(folder, "wide"), null, [wide]);
  return { bytes, tensors: fp8.length };
}

/** The bits of the F16 that is next to it, towards zero. @param {number} value below 65504 */
function encodeF16(value) {
  const size = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(size || 2 ** -20)), -14);
  const fraction = Math.floor(size / 2 ** (exponent - 10));
  // Subnormal ones have no leading bit.
  return (value < 0 ? 0x8000 : 0) | (exponent === -14 && fraction < 1024 ? fraction : ((exponent + 15) << 10) + (fraction - 1024));
}

/** @param {number} bits of an F16 */
function decodeF16(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
}

/**
 * Writes `narrow` and `wide` into a folder: linear weights cut to that dtype, without scales, and what those stand for.
 * @param {string} folder
 * @param {"F16" | "F8_E5M2"} dtype
 */
export function writeCast(folder, dtype) {
  /** @type {[string, Tensor][][]} */
  const [narrow = [], wide = []] = [[], []];
  for (const [name, tensor] of readTale()) {
    const values = widen(tensor.bytes);
    if (!name.includes("_proj")) {
      narrow.push([name, tensor]);
      wide.push([name, { dtype: "F32", shape: tensor.shape, bytes: bytesOf(values) }]);
      continue;
    }
    // An E5M2 is the upper byte of an F16.
    const bits = Uint16Array.from(values, (value) => encodeF16(value) & (dtype === "F16" ? 0xffff : 0xff00));
    narrow.push([name, { dtype, shape: tensor.shape, bytes: bytesOf(dtype === "F16" ? bits : Uint8Array.from(bits, (half) => half >> 8)) }]);
    wide.push([name, { dtype: "F32", shape: tensor.shape, bytes: bytesOf(Float32Array.from(bits, decodeF16)) }]);
  }
  write(join(folder, "narrow"), null, [narrow]);
  write(join(folder, "wide"), null, [wide]);
}
