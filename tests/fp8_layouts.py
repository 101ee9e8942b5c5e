"""Checkpoints in FP8 layouts, made from a wide one, and the weights that they stand for."""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

FP8 = torch.float8_e4m3fn


def compressed(strategy: str, block: list | None = None) -> dict:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "block_structure": block}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    method = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"]}
    return {**method, "config_groups": {"group_0": group}}


def fp8(block: list | None) -> dict:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}


# quantization_config, what is behind `weight` in the scale's name, its shape for a matrix, its dtype, and
# the shape of what shares a scale.
LAYOUTS = {
    "per tensor": (compressed("tensor"), "_scale", lambda out, _: (1,), torch.bfloat16, lambda out, width: (out, width)),
    "per channel": (compressed("channel"), "_scale", lambda out, _: (out, 1), torch.bfloat16, lambda _, width: (1, width)),
    "scalar weight_scale_inv": (fp8(None), "_scale_inv", lambda *_: (), torch.float32, lambda out, width: (out, width)),
    "blocks": (
        compressed("block", [128, 128]), "_scale",
        lambda out, width: (-(-out // 128), -(-width // 128)), torch.bfloat16, lambda *_: (128, 128),
    ),
    "blocks, weight_scale_inv": (
        fp8([64, 64]), "_scale_inv",
        lambda out, width: (-(-out // 64), -(-width // 64)), torch.float32, lambda *_: (64, 64),
    ),
}


def spread(scale: torch.Tensor, matrix: torch.Size, shared: tuple) -> torch.Tensor:
    """One scale per weight."""
    rows = -(-matrix[0] // shared[0])
    grid = scale.float().reshape(rows, -1)
    return grid.repeat_interleave(shared[0], 0)[: matrix[0]].repeat_interleave(shared[1], 1)[:, : matrix[1]]


def make(source: pathlib.Path, out: pathlib.Path, name: str) -> dict:
    """Writes `source` to `out` in a layout; its weights in float32, each exactly what is stored."""
    config, suffix, scale_shape, scale_dtype, sharing = LAYOUTS[name]
    tensors, exact = {}, {}
    for path in sorted(source.glob("*.safetensors")):
        for tensor, weight in load_file(path).items():
            if not tensor.endswith("_proj.weight"):
                tensors[tensor], exact[tensor] = weight, weight.float()
                continue
            shape, shared = weight.shape, sharing(*weight.shape)
            height, width = shared
            padded = torch.zeros(-(-shape[0] // height) * height, -(-shape[1] // width) * width)
            padded[: shape[0], : shape[1]] = weight.float().abs()
            blocks = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width)
            scale = (blocks.amax((1, 3)) / 448).to(scale_dtype)
            every = spread(scale, shape, shared)
            codes = (weight.float() / every).clamp(-448, 448).to(FP8)
            tensors[tensor], tensors[tensor + suffix] = codes, scale.reshape(scale_shape(*shape)).contiguous()
            exact[tensor] = codes.float() * every
    return write(source, out, tensors, {"quantization_config": config}, exact)


def tie(source: pathlib.Path, out: pathlib.Path) -> dict:
    """Writes `source` to `out` without a head of its own."""
    tensors = {name: weight for path in source.glob("*.safetensors") for name, weight in load_file(path).items()}
    del tensors["lm_head.weight"]
    return write(source, out, tensors, {"tie_word_embeddings": True}, {})


def write(source: pathlib.Path, out: pathlib.Path, tensors: dict, more: dict, exact: dict) -> dict:
    out.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors" and not path.name.endswith("index.json"):
            shutil.copy(path, out)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **more}))
    return exact
