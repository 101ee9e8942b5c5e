"""Merge SmolLM2-135M with a perturbed copy of itself: bise and mergekit side by side.

    pip install -r tests/requirements-torch.txt
    python tests/merge_bench.py BISE MODEL_DIR      # target/native/bise target/models/smollm2-135m

Both merge the same two checkpoints by the same recipe, in turn, as processes of their own; the
copy differs in odd layers by enough for the spherical branch. Prints the median time of each, its
throughput in bytes of the result, peak resident memory, and the ratio; ends with 1 below TARGET.
Loading Python and torch is part of what a user of mergekit-yaml waits for; it is measured by itself
(`mergekit-yaml --help`), and the ratio is given with and without it.
"""

import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

RUNS = 5
TARGET = 10.0
RECIPE = """\
models:
- model: {a}
- model: {b}
merge_method: slerp
base_model: {a}
parameters:
  t:
  - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
  - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
  - value: 0.5
dtype: bfloat16
"""


def perturb(source: pathlib.Path, target: pathlib.Path) -> int:
    """A copy with noise of its own; the bytes of all tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(1)
    target.mkdir()
    total = 0
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target / path.name)
            continue
        tensors = load_file(path)
        for name, tensor in tensors.items():
            share = 0.5 if any(f".{layer}." in name for layer in range(1, 99, 2)) else 0.01
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * share
            tensors[name] = (tensor.float() + noise).to(tensor.dtype)
            total += tensor.numel() * tensor.element_size()
        save_file(tensors, target / path.name, metadata={"format": "pt"})
    return total


def run(command: list) -> tuple[float, float]:
    """Seconds, and peak resident memory in MiB."""
    began = time.perf_counter()
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{command[0]}: {errors.decode()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    bise, model = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    mergekit = pathlib.Path(sys.executable).parent / "mergekit-yaml"
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        # In a process of its own: a child's peak begins with what its parent holds.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            total = pool.apply(perturb, (model, top / "b"))
        recipe = top / "recipe.yml"
        recipe.write_text(RECIPE.format(a=model, b=top / "b"))
        commands = {
            "bise, CPU": [bise, "merge", recipe, top / "out", "--backend", "cpu"],
            "mergekit-yaml": [mergekit, recipe, top / "out"],
            "mergekit-yaml --help": [mergekit, "--help"],
        }
        seconds = {name: [] for name in commands}
        peaks = {name: 0.0 for name in commands}
        # The first round only fills the page cache.
        for round_ in range(RUNS + 1):
            for name, command in commands.items():
                shutil.rmtree(top / "out", ignore_errors=True)
                took, peak = run(command)
                peaks[name] = max(peaks[name], peak)
                if round_ > 0:
                    seconds[name].append(took)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        print(f"{total / 1e6:.0f} MB of tensors, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, median of {RUNS}")
        for name, median in medians.items():
            rate = "" if "help" in name else f"{total / 1e6 / median:8.0f} MB/s"
            each = " ".join(f"{each:.2f}" for each in seconds[name])
            print(f"{name:22}{median:7.2f} s{rate:>14}{peaks[name]:8.0f} MiB peak   each {each}")
        ours, theirs, start = medians.values()
        print(f"bise is {theirs / ours:.1f} times as fast ({(theirs - start) / ours:.1f} without mergekit's start); target {TARGET:g}")
        raise SystemExit(theirs / ours < TARGET)


if __name__ == "__main__":
    main()
