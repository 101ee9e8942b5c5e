// A Mistral checkpoint of any size that is computed, never stored: any range of any file, at once.
//
// Every four bytes of a tensor are a hash of its name, the row and the place in the row. The same bytes are made
// in tests/common/synthetic.rs, and in tests/seven_billion_reference.py from the same definition:
//
//   mix(x):   x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16      (all in u32)
//   seed      FNV-1a of the tensor's name
//   key(row)  mix(mix(row) + seed)
//   word(row, i) = mix(key(row) + i), little-endian, made into weights as its tensor wants:
//     F8_E4M3 matrix     any code, but NaN (0x7f, 0xff) becomes the code below it
//     BF16 matrix        each half h: sign of h, magnitude BASE + ((h & 0xff) * cap >> 8), where cap is
//                        128 + (key & 127): rows have maxima of their own
//     scales (BF16)      each half: 0x3900 + (h & 0x7f), one long row; 2^-13 to 2^-12
//     vectors (BF16)     each half: 0x3f00 + (h & 0x7f), one long row; 0.5 to 1
//   BASE is 0x3c00, 2^-7, for 4096 columns and more: a standard deviation of about 0.02. Narrower matrices have
//   larger weights, by powers of two, and so have their scales, so that layers of any width do something.

/** @typedef {"fp8" | "bf16"} Layout how linear weights are stored */
/** @typedef {"codes" | "wide" | "scales" | "vector" | "zeros"} Fill */

/**
 * One tensor; `rows * cols` elements.
 * @typedef {object} Tensor
 * @property {string} name
 * @property {"F8_E4M3" | "BF16" | "U8"} dtype
 * @property {number[]} shape
 * @property {Fill} fill
 * @property {number} rows rows that the words count in
 * @property {number} bytes of a row
 * @property {number} shift of exponents
 */

/**
 * A file that is computed.
 * @typedef {object} ComputedFile
 * @property {number} size
 * @property {(begin: number, end: number) => Iterable<Buffer>} read in pieces, which are the reader's own
 */

const DTYPE_BYTES = { F8_E4M3: 1, BF16: 2, U8: 1 };
/** Bytes computed at a time. */
const PIECE_BYTES = 1 << 20;

/** @param {number} x */
function mix(x) {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) | 0;
}

/** @param {string} name */
function seedOf(name) {
  let hash = 0x811c9dc5 | 0;
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash;
}

/**
 * By how many powers of two the weights of a matrix are larger than those of one with 4096 columns.
 * @param {number} cols
 */
const shiftFor = (cols) => Math.max(0, Math.floor((12 - Math.floor(Math.log2(cols))) / 2));

/**
 * Names and shapes as transformers saves them, FP8 as compressed-tensors does.
 * @param {any} config
 * @param {Layout} layout
 * @returns {Tensor[]}
 */
export function tensorsOf(config, layout) {
  const { hidden_size: hidden, intermediate_size: intermediate, num_attention_heads: heads, vocab_size: vocab } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const kvWidth = (config.num_key_value_heads ?? 8) * headDim;
  /** @type {Tensor[]} */
  const tensors = [];
  const wide = (/** @type {string} */ name, /** @type {number} */ rows, /** @type {number} */ cols) => {
    if (cols % 2 !== 0) throw new Error(`${name}: rows must be whole words`);
    tensors.push({ name: `${name}.weight`, dtype: "BF16", shape: [rows, cols], fill: "wide", rows, bytes: 2 * cols, shift: shiftFor(cols) });
  };
  const vector = (/** @type {string} */ name) => {
    tensors.push({ name: `${name}.weight`, dtype: "BF16", shape: [hidden], fill: "vector", rows: 1, bytes: 2 * hidden, shift: 0 });
  };
  const linear = (/** @type {string} */ name, /** @type {number} */ rows, /** @type {number} */ cols) => {
    if (layout === "bf16") return wide(name, rows, cols);
    if (cols % 4 !== 0) throw new Error(`${name}: rows must be whole words`);
    const shift = shiftFor(cols);
    tensors.push({ name: `${name}.weight`, dtype: "F8_E4M3", shape: [rows, cols], fill: "codes", rows, bytes: cols, shift });
    tensors.push({ name: `${name}.weight_scale`, dtype: "BF16", shape: [rows, 1], fill: "scales", rows: 1, bytes: 2 * rows, shift });
  };
  wide("model.embed_tokens", vocab, hidden);
  for (let layer = 0; layer < config.num_hidden_layers; layer += 1) {
    const name = (/** @type {string} */ part) => `model.layers.${layer}.${part}`;
    vector(name("input_layernorm"));
    linear(name("self_attn.q_proj"), heads * headDim, hidden);
    linear(name("self_attn.k_proj"), kvWidth, hidden);
    linear(name("self_attn.v_proj"), kvWidth, hidden);
    linear(name("self_attn.o_proj"), hidden, heads * headDim);
    vector(name("post_attention_layernorm"));
    linear(name("mlp.gate_proj"), intermediate, hidden);
    linear(name("mlp.up_proj"), intermediate, hidden);
    linear(name("mlp.down_proj"), hidden, intermediate);
  }
  vector("model.norm");
  if (!config.tie_word_embeddings) wide("lm_head", vocab, hidden);
  return tensors;
}

/** What makes a config that of an FP8 checkpoint: channel scales, weights only. */
const QUANTIZATION = {
  quant_method: "compressed-tensors",
  format: "naive-quantized",
  quantization_status: "compressed",
  config_groups: {
    group_0: {
      targets: ["Linear"],
      weights: { num_bits: 8, type: "float", symmetric: true, strategy: "channel", dynamic: false },
      input_activations: null,
      output_activations: null,
    },
  },
  ignore: ["lm_head"],
};

/** @param {Tensor} tensor */
const sizeOf = ({ rows, bytes }) => rows * bytes;

/**
 * Fills `words` with a part of one row of a tensor, from word `first` on.
 * @param {Int32Array} words
 * @param {number} at index of the first word to fill
 * @param {number} count
 * @param {Tensor} tensor
 * @param {number} key of the row
 * @param {number} first
 */
function fillRow(words, at, count, { fill, shift }, key, first) {
  const from = (key + first) | 0;
  const end = at + count;
  if (fill === "codes") {
    for (let i = at, x = from; i < end; i += 1, x = (x + 1) | 0) {
      const word = mix(x);
      const nan = ((word & 0x7f7f7f7f) + 0x01010101) & 0x80808080;
      words[i] = word ^ (nan >>> 7);
    }
  } else if (fill === "wide") {
    const [cap, base] = [128 + (key & 127), 0x3c00 + (shift << 7)];
    for (let i = at, x = from; i < end; i += 1, x = (x + 1) | 0) {
      const word = mix(x);
      const low = (((word & 0xff) * cap) >>> 8) + base;
      const high = ((((word >>> 16) & 0xff) * cap) >>> 8) + base;
      words[i] = (word & 0x80008000) | low | (high << 16);
    }
  } else {
    const half = fill === "vector" ? 0x3f00 : 0x3900 + (shift << 7);
    for (let i = at, x = from; i < end; i += 1, x = (x + 1) | 0) {
      words[i] = (mix(x) & 0x007f007f) + (half | (half << 16));
    }
  }
}

/**
 * Bytes of a tensor.
 * @param {Tensor} tensor
 * @param {number} begin
 * @param {number} end
 */
export function tensorBytes(tensor, begin, end) {
  if (tensor.fill === "zeros") return Buffer.alloc(end - begin);
  const seed = seedOf(tensor.name);
  const perRow = Math.ceil(tensor.bytes / 4); // only a single row may end inside a word
  const [firstWord, endWord] = [Math.floor(begin / 4), Math.ceil(end / 4)];
  const words = new Int32Array(endWord - firstWord);
  for (let word = firstWord; word < endWord; ) {
    const row = Math.floor(word / perRow);
    const column = word - row * perRow;
    const count = Math.min(perRow - column, endWord - word);
    fillRow(words, word - firstWord, count, tensor, mix((mix(row | 0) + seed) | 0), column);
    word += count;
  }
  return Buffer.from(words.buffer, begin - firstWord * 4, end - begin);
}

/**
 * One shard: its header, and its tensors behind it.
 * @param {Tensor[]} tensors in the order of the file
 * @returns {ComputedFile}
 */
function shardOf(tensors) {
  /** @type {Record<string, unknown>} */
  const header = { __metadata__: { format: "pt" } };
  /** @type {{ tensor: Tensor, begin: number }[]} */
  const places = [];
  let end = 0;
  for (const tensor of tensors) {
    const begin = end;
    end += sizeOf(tensor);
    header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] };
    places.push({ tensor, begin });
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const head = Buffer.alloc(8 + json.length);
  head.writeBigUInt64LE(BigInt(json.length));
  json.copy(head, 8);
  return {
    size: head.length + end,
    * read(begin, end) {
      if (begin < head.length) yield Buffer.from(head.subarray(begin, end));
      for (const { tensor, begin: start } of places) {
        const offset = head.length + start;
        const to = Math.min(end - offset, sizeOf(tensor));
        for (let from = Math.max(begin - offset, 0); from < to; from += PIECE_BYTES) {
          yield tensorBytes(tensor, from, Math.min(from + PIECE_BYTES, to));
        }
      }
    },
  };
}

/**
 * @param {Buffer | string} content
 * @returns {ComputedFile}
 */
function inMemory(content) {
  const bytes = Buffer.from(content);
  return { size: bytes.length, * read(begin, end) { yield Buffer.from(bytes.subarray(begin, end)); } };
}

/**
 * What a checkpoint is made of.
 * @typedef {object} Recipe
 * @property {any} config config.json
 * @property {Layout} layout
 * @property {number} [shardBytes] data of a shard at most, as long as a tensor fits
 * @property {number} [fillerBytes] a tensor of so many zeros, which no decoder reads, at the start of the first shard
 * @property {Record<string, Buffer | string>} [files] further files
 */

/**
 * The files of a checkpoint, by name.
 * @param {Recipe} recipe
 * @returns {Map<string, ComputedFile>}
 */
export function computeCheckpoint({ config, layout, shardBytes = 5e9, fillerBytes = 0, files = {} }) {
  const tensors = tensorsOf(config, layout);
  /** @type {Tensor[][]} */
  const shards = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = sizeOf(tensor);
    if (bytes > 0 && bytes + size > shardBytes) {
      shards.push([]);
      bytes = 0;
    }
    bytes += size;
    shards.at(-1)?.push(tensor);
  }
  for (const shard of shards) {
    shard.sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1));
  }
  if (fillerBytes > 0) {
    const name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    shards[0]?.unshift({ name, dtype: "U8", shape: [fillerBytes / 1024, 1024], fill: "zeros", rows: fillerBytes / 1024, bytes: 1024, shift: 0 });
  }
  /** @type {Map<string, ComputedFile>} */
  const all = new Map(Object.entries(files).map(([name, content]) => [name, inMemory(content)]));
  const stored = layout === "fp8" ? { ...config, quantization_config: QUANTIZATION } : config;
  all.set("config.json", inMemory(JSON.stringify(stored, null, 2)));
  if (shards.length === 1) {
    all.set("model.safetensors", shardOf(shards[0] ?? []));
    return all;
  }
  /** @type {Record<string, string>} */
  const weightMap = {};
  for (const [i, shard] of shards.entries()) {
    const number = (/** @type {number} */ n) => String(n).padStart(5, "0");
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    for (const { name } of shard) weightMap[name] = file;
    all.set(file, shardOf(shard));
  }
  const total = shards.flat().reduce((sum, tensor) => sum + sizeOf(tensor), 0);
  all.set("model.safetensors.index.json", inMemory(JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap })));
  return all;
}

/**
 * Number of weights.
 * @param {any} config
 */
export function parametersOf(config) {
  return tensorsOf(config, "bf16").reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
}
