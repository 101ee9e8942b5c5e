// A checkpoint of Mistral 7B's shape whose weights are holes: headers that are read, and files of the right length that
// take no room on the disk.

import { closeSync, cpSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fromTop } from "./paths.js";

const [HIDDEN, MLP, KV, VOCAB] = [4096, 14336, 1024, 32000];

/** Bytes of all weights and scales: FP8 linear weights with one scale per row, the rest BF16. */
export const SPARSE = { bytes: 0, parameters: 7_241_732_096 };

/**
 * Writes it in two files.
 * @param {string} folder
 * @param {number} [layers] fewer than the model has
 */
export function writeSparse(folder, layers = 32) {
  mkdirSync(folder, { recursive: true });
  for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]) cpSync(fromTop(`tests/fixtures/mistral7b/${name}`), join(folder, name));
  const quantization_config = {
    quant_method: "compressed-tensors", format: "naive-quantized",
    config_groups: { group_0: { targets: ["Linear"], weights: { num_bits: 8, type: "float", symmetric: true, strategy: "channel" } } },
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify({
    architectures: ["MistralForCausalLM"], model_type: "mistral", hidden_act: "silu", hidden_size: HIDDEN, intermediate_size: MLP,
    num_hidden_layers: layers, num_attention_heads: 32, num_key_value_heads: 8, vocab_size: VOCAB, rms_norm_eps: 1e-5,
    rope_theta: 10000, sliding_window: 4096, max_position_embeddings: 32768, tie_word_embeddings: false, torch_dtype: "bfloat16",
    bos_token_id: 1, eos_token_id: 2, quantization_config,
  }));
  /** @type {[string, "BF16" | "F8_E4M3" | "F32", number[]][][]} */
  const files = [[["model.embed_tokens.weight", "BF16", [VOCAB, HIDDEN]]], []];
  for (let layer = 0; layer < layers; layer += 1) {
    const file = files[layer < layers / 2 ? 0 : 1] ?? [];
    const linear = (/** @type {string} */ name, /** @type {number} */ rows, /** @type {number} */ cols) => {
      file.push([`model.layers.${layer}.${name}.weight`, "F8_E4M3", [rows, cols]], [`model.layers.${layer}.${name}.weight_scale`, "F32", [rows, 1]]);
    };
    for (const norm of ["input_layernorm", "post_attention_layernorm"]) file.push([`model.layers.${layer}.${norm}.weight`, "BF16", [HIDDEN]]);
    linear("self_attn.q_proj", HIDDEN, HIDDEN);
    linear("self_attn.k_proj", KV, HIDDEN);
    linear("self_attn.v_proj", KV, HIDDEN);
    linear("self_attn.o_proj", HIDDEN, HIDDEN);
    linear("mlp.gate_proj", MLP, HIDDEN);
    linear("mlp.up_proj", MLP, HIDDEN);
    linear("mlp.down_proj", HIDDEN, MLP);
  }
  files[1]?.push(["model.norm.weight", "BF16", [HIDDEN]], ["lm_head.weight", "BF16", [VOCAB, HIDDEN]]);
  /** @type {Record<string, string>} */
  const map = {};
  SPARSE.bytes = 0;
  for (const [i, tensors] of files.entries()) {
    const name = `model-0000${i + 1}-of-00002.safetensors`;
    /** @type {Record<string, object>} */
    const header = {};
    let at = 0;
    for (const [tensor, dtype, shape] of tensors) {
      const end = at + shape.reduce((product, side) => product * side, { BF16: 2, F8_E4M3: 1, F32: 4 }[dtype]);
      header[tensor] = { dtype, shape, data_offsets: [at, end] };
      at = end;
      map[tensor] = name;
    }
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    const file = openSync(join(folder, name), "w");
    writeSync(file, Buffer.concat([length, json]));
    ftruncateSync(file, 8 + json.length + at);
    closeSync(file);
    SPARSE.bytes += at;
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: { total_size: SPARSE.bytes }, weight_map: map }));
}
