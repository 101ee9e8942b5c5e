#!/usr/bin/env python3
"""Logits of a computed Mistral checkpoint, layer by layer, with numpy alone.

The weights are made from the definition at the top of tests/browser/synthetic.js, the decoder from the one in the
literature: RMSNorm with statistics of its own, rotary embeddings by halves, grouped queries, a sliding window,
silu(gate) * up. Nothing of bise is imported, and no file is read but config.json. All positions go through a layer
together, so every weight is made once; what is held of them is a few rows at a time.

    seven_billion_reference.py CONFIG --layout fp8|bf16 [--f8] --ids 1,2,3 [--last N] [--perturb NAME:ROW:FACTOR]...

prints one JSON object: the 20 largest logits at each of the last N positions, and the logarithm of the sum of all
exponentials there. `--f8` quantises linear weights by row first: scale = absmax / 448, codes rounded to nearest.
Each `--perturb` multiplies a row of a weight, in a sequence of its own beside the first: what comes of it is in
"controls", in their order.
"""

import argparse
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

U32 = np.uint32
ROWS_AT_ONCE = 256
TOP = 20


# --- weights -----------------------------------------------------------------


def mix(x):
    """Hashes an array of u32 in place."""
    x ^= x >> U32(16)
    x *= U32(0x7FEB352D)
    x ^= x >> U32(15)
    x *= U32(0x846CA68B)
    x ^= x >> U32(16)
    return x


def seed_of(name):
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & 0xFFFFFFFF
    return U32(seed)


def words(name, first_row, rows, count):
    """The hashed words of some rows, (rows, count), and the rows' keys, (rows, 1)."""
    keys = mix(np.arange(first_row, first_row + rows, dtype=U32))
    keys += seed_of(name)
    keys = mix(keys)[:, None]
    return mix(keys + np.arange(count, dtype=U32)), keys


def shift_for(cols):
    return max(0, (12 - (cols.bit_length() - 1)) // 2)


def from_bf16(bits):
    """Words of two BF16 each as f32, (rows, 2 * words)."""
    return (bits.view(np.uint16).astype(U32) << U32(16)).view(np.float32)


def vector(name, length):
    """A norm's weight: 0.5 to 1."""
    bits = words(name, 0, 1, -(-length // 2))[0] & U32(0x007F007F) | U32(0x3F003F00)
    return from_bf16(bits)[0, :length].astype(np.float64)


def scales(name, rows, cols):
    bits = (words(name, 0, 1, -(-rows // 2))[0] & U32(0x007F007F)) + U32((0x3900 + (shift_for(cols) << 7)) * 0x10001)
    return from_bf16(bits)[0, :rows]


def wide_rows(name, first_row, rows, cols):
    """Rows of a BF16 matrix as f32, (rows, cols)."""
    x, keys = words(name, first_row, rows, cols // 2)
    cap = U32(128) + (keys & U32(127))
    base = U32(0x3C00 + (shift_for(cols) << 7))
    low = ((x & U32(0xFF)) * cap >> U32(8)) + base
    high = (((x >> U32(16)) & U32(0xFF)) * cap >> U32(8)) + base
    return from_bf16(x & U32(0x80008000) | low | high << U32(16))


def e4m3_values():
    """The value of each of the 256 codes of E4M3."""
    values = []
    for code in range(256):
        exponent, fraction = code >> 3 & 15, code & 7
        size = fraction * 2.0**-9 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
        values.append((-size if code & 0x80 else size) if code & 0x7F != 0x7F else np.nan)
    return np.array(values, dtype=np.float32)


E4M3 = e4m3_values()
# Two codes at once: real part from the low byte, imaginary part from the high one.
E4M3_PAIRS = np.empty(65536, dtype=np.complex64)
E4M3_PAIRS.real = np.tile(E4M3, 256)
E4M3_PAIRS.imag = np.repeat(E4M3, 256)


def code_rows(name, first_row, rows, cols):
    """Rows of an E4M3 matrix as f32, before scaling, (rows, cols)."""
    x, _ = words(name, first_row, rows, cols // 4)
    x ^= ((x & U32(0x7F7F7F7F)) + U32(0x01010101) & U32(0x80808080)) >> U32(7)
    return E4M3_PAIRS[x.view(np.uint16)].view(np.float32)


def quantize(rows):
    """Rows as E4M3 with a scale per row: what the codes stand for, (rows, cols), and the scales, (rows)."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(448)
    scale[scale == 0] = 1
    values = np.clip(rows / scale, -448, 448)
    # Nearest multiple, ties to even, of the spacing that three bits of fraction leave; 2^-9 below 2^-6.
    _, exponent = np.frexp(values)
    spacing = np.ldexp(np.float32(1), np.maximum(exponent - 4, -9))
    return np.rint(values / spacing) * spacing, scale[:, 0]


# --- decoder -----------------------------------------------------------------


class Decoder:
    def __init__(self, config, layout, f8, perturb, pool):
        self.config, self.layout, self.f8, self.perturb, self.pool = config, layout, f8, perturb, pool
        self.hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", 8)
        self.head_dim = config.get("head_dim") or self.hidden // self.heads
        self.generated = 0

    def product(self, name, x, rows, cols, linear=True):
        """x W^T for every sequence, (sequences, T, rows) f64, from (sequences, T, cols)."""
        flat = np.ascontiguousarray(x.reshape(-1, cols).astype(np.float32).T)
        y = np.empty((rows, flat.shape[1]), dtype=np.float64)

        def part(first):
            count = min(ROWS_AT_ONCE, rows - first)
            scale = None
            if linear and self.layout == "fp8":
                weights, scale = code_rows(name, first, count, cols), row_scales[first : first + count]
            else:
                weights = wide_rows(name, first, count, cols)
                if linear and self.f8:
                    weights, scale = quantize(weights)
            y[first : first + count] = weights @ flat
            if scale is not None:
                y[first : first + count] *= scale[:, None].astype(np.float64)

        row_scales = scales(name + "_scale", rows, cols) if linear and self.layout == "fp8" else None
        list(self.pool.map(part, range(0, rows, ROWS_AT_ONCE)))
        self.generated += rows * cols
        y = y.T.reshape(*x.shape[:-1], rows)
        for sequence, (wanted, row, factor) in enumerate(self.perturb, start=1):
            if wanted == name:
                y[sequence, :, row] *= factor
        return y

    def norm(self, name, x):
        epsilon = self.config.get("rms_norm_eps", 1e-6)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * vector(name, self.hidden)

    def rotate(self, x):
        """Rotary embedding by halves, (sequences, T, heads, head_dim); angles in f32."""
        half = self.head_dim // 2
        theta = self.config["rope_theta"]
        frequency = (1.0 / theta ** (np.arange(half) * 2.0 / self.head_dim)).astype(np.float32)
        angles = np.arange(x.shape[1], dtype=np.float32)[:, None] * frequency
        cos, sin = np.cos(angles, dtype=np.float64)[:, None], np.sin(angles, dtype=np.float64)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attention(self, layer, x):
        name = f"model.layers.{layer}.self_attn."
        sequences, length, _ = x.shape
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        split = lambda y, heads: y.reshape(sequences, length, heads, self.head_dim)
        q = self.rotate(split(self.product(name + "q_proj.weight", x, q_width, self.hidden), self.heads))
        k = self.rotate(split(self.product(name + "k_proj.weight", x, kv_width, self.hidden), self.kv_heads))
        v = split(self.product(name + "v_proj.weight", x, kv_width, self.hidden), self.kv_heads)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
        scores = np.einsum("sqhd,skhd->shqk", q, k) * self.head_dim**-0.5
        query, key = np.arange(length)[:, None], np.arange(length)[None, :]
        visible = key <= query
        window = self.config.get("sliding_window", 4096)
        if window is not None:
            visible &= key > query - window
        scores = np.where(visible, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        out = np.einsum("shqk,skhd->sqhd", scores, v).reshape(sequences, length, q_width)
        return self.product(name + "o_proj.weight", out, self.hidden, q_width)

    def mlp(self, layer, x):
        name, width = f"model.layers.{layer}.mlp.", self.config["intermediate_size"]
        gate = self.product(name + "gate_proj.weight", x, width, self.hidden)
        up = self.product(name + "up_proj.weight", x, width, self.hidden)
        return self.product(name + "down_proj.weight", gate / (1 + np.exp(-gate)) * up, self.hidden, width)

    def logits(self, ids, last):
        """(1 + perturbed, last, vocab) f64"""
        name = "model.embed_tokens.weight"
        embedded = np.concatenate([wide_rows(name, token, 1, self.hidden) for token in ids])
        x = np.repeat(embedded[None].astype(np.float64), 1 + len(self.perturb), axis=0)
        for layer in range(self.config["num_hidden_layers"]):
            began = time.monotonic()
            x = x + self.attention(layer, self.norm(f"model.layers.{layer}.input_layernorm.weight", x))
            x = x + self.mlp(layer, self.norm(f"model.layers.{layer}.post_attention_layernorm.weight", x))
            rms = np.sqrt((x[0] ** 2).mean())
            print(f"layer {layer}: {time.monotonic() - began:.1f} s, rms {rms:.3f}", file=sys.stderr)
        x = self.norm("model.norm.weight", x[:, -last:])
        head = name if self.config.get("tie_word_embeddings") else "lm_head.weight"
        return self.product(head, x, self.config["vocab_size"], self.hidden, linear=False)


def steps(logits):
    """What is reported of (positions, vocab)."""
    reported = []
    for row in logits:
        order = np.argsort(-row, kind="stable")[:TOP]
        log_sum = row.max() + np.log(np.exp(row - row.max()).sum())
        reported.append({"top": [[int(i), float(row[i])] for i in order], "log_sum": float(log_sum)})
    return reported


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--layout", choices=["fp8", "bf16"], required=True)
    parser.add_argument("--f8", action="store_true")
    parser.add_argument("--ids", required=True)
    parser.add_argument("--last", type=int, default=1)
    parser.add_argument("--perturb", action="append", default=[], metavar="NAME:ROW:FACTOR")
    given = parser.parse_args()
    with open(given.config, encoding="utf-8") as file:
        config = json.load(file)
    perturb = []
    for text in given.perturb:
        name, row, factor = text.split(":")
        perturb.append((name, int(row), float(factor)))
    began = time.monotonic()
    ids = [int(token) for token in given.ids.split(",")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoder = Decoder(config, given.layout, given.f8, perturb, pool)
        logits = decoder.logits(ids, given.last)
    report = {"steps": steps(logits[0]), "controls": [steps(control) for control in logits[1:]]}
    report["weights"] = decoder.generated
    report["seconds"] = round(time.monotonic() - began, 1)
    report["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
