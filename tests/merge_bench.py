"""Merge SmolLM2-135M with a perturbed copy of itself: bise, natively and in Chromium, beside mergekit.

    ./build.sh bench merge                          # installs and builds what this needs, then runs
    python tests/merge_bench.py BISE MODEL_DIR      # target/native/bise target/models/smollm2-135m

All merge the same two checkpoints by the same recipe, in turn, `bise merge` and `mergekit-yaml` as
processes of their own, Chromium over HTTP in a page's worker, into the origin's storage and into a
stream that discards. The copy differs in odd layers by enough for the spherical branch. Before
anything is timed, the results are compared: Chromium's with the native one bit for bit, that with
mergekit's within the bar of merges (99 % of the elements identical, the rest within a rounding).

Prints the median time of each, its throughput in bytes of the result, peak memory, and the ratios;
ends with 1 below a target. Loading Python and torch is part of what a user of mergekit-yaml waits
for; it is measured by itself (`mergekit-yaml --help`), and the ratios are given with and without it.
The time in Chromium is that of `merge()`, the start of its worker included. The read-two-write-one
bandwidth of memory is what adding two large arrays into a third reaches.
"""

import hashlib
import json
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
NATIVE, CHROMIUM, DISCARD, MERGEKIT, START = (
    "bise, native",
    "bise, Chromium",
    "  its result discarded",
    "mergekit-yaml",
    "  its start alone",
)
# What of mergekit's throughput each must reach.
TARGETS = {NATIVE: 10.0, CHROMIUM: 4.0}
HELPER = pathlib.Path(__file__).resolve().parent / "browser/merge_bench.js"
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


def bandwidth() -> tuple[float, float]:
    """Bytes per second read and written when two arrays are added into a third: one thread, all."""
    import torch

    a, b, c = (torch.ones(1 << 26) for _ in range(3))
    rates = []
    for threads in (1, os.cpu_count()):
        torch.set_num_threads(threads)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            torch.add(a, b, out=c)
            times.append(time.perf_counter() - began)
        rates.append(3 * c.numel() * c.element_size() / min(times))
    return rates[0], rates[1]


def load(directory: pathlib.Path) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def validate(models: list, ours: pathlib.Path, report: pathlib.Path, theirs: pathlib.Path, hashes: dict) -> str:
    """Compares three results of one merge; raises SystemExit where they are not the same."""
    import torch

    parents = [load(model) for model in models]
    merged, expected = load(ours), load(theirs)
    tensors = {each["tensor"]: each for each in json.loads(report.read_text())["tensors"]}
    # The head of a model with tied embeddings is theirs alone, or nobody's.
    if not set(merged) == set(tensors) == set(hashes) or set(expected) - set(merged) - {"lm_head.weight"} or not merged:
        raise SystemExit(f"other tensors: {sorted(set(merged) ^ set(expected))[:5]} {sorted(set(merged) ^ set(hashes))[:5]}")
    elements = same = spherical = 0
    for name, tensor in merged.items():
        bits = tensor.view(torch.int16)
        if hashlib.sha256(bits.numpy().tobytes()).hexdigest() != hashes[name]:
            raise SystemExit(f"{name}: not the same bits natively and in Chromium")
        other = expected[name]
        equal = bits == other.view(torch.int16)
        a, b = (parent[name].float() for parent in parents)
        c0, c1 = tensors[name]["coefficients"]
        # Neighbours among the values of bfloat16; where both products cancel out, several steps are as near.
        steps = [torch.where(each < 0, -(each & 0x7FFF), each) for each in (bits.int(), other.view(torch.int16).int())]
        near = 2**-8 * ((c0 * a).abs() + (c1 * b).abs())
        far = ((steps[0] - steps[1]).abs() > 1) & ((tensor.float() - other.float()).abs() > near)
        if far.any():
            raise SystemExit(f"{name}: {int(far.sum())} elements are further from mergekit's than a rounding")
        # Linear factors come from t alone, not from sums: all but elements that lie at a tie are the same.
        if tensors[name]["branch"] == "linear" and (~equal).sum() > 1e-4 * equal.numel():
            raise SystemExit(f"{name}: blended linearly, and {int((~equal).sum())} elements are not mergekit's")
        spherical += tensors[name]["branch"] == "spherical"
        elements += bits.numel()
        same += int(equal.sum())
    if same < 0.99 * elements or spherical < 100:
        raise SystemExit(f"{same} of {elements} elements are mergekit's, {spherical} tensors spherical")
    return (
        f"valid: {len(merged)} tensors, {spherical} of them blended on the sphere; Chromium has the native bits, "
        f"mergekit {100 * same / elements:.3f} % of them, the rest within a rounding"
    )


def in_a_process(work, *arguments):
    """In a process of its own: a child's peak begins with what its parent holds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def run(command: list) -> tuple[float, float]:
    """Seconds, and peak resident memory in bytes."""
    began = time.perf_counter()
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{command[0]}: {errors.decode()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024


class Chromium:
    """Chromium, open on a page that merges."""

    def __init__(self, bise: pathlib.Path, recipe: pathlib.Path, models: list):
        command = ["node", HELPER, bise, recipe, *models]
        self.helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.answer()["browser"]

    def answer(self) -> dict:
        line = self.helper.stdout.readline()
        if not line:
            raise SystemExit("Chromium: the merge failed (see above)")
        return json.loads(line)

    def merge(self, where: str) -> dict:
        self.helper.stdin.write(f"{where}\n")
        self.helper.stdin.flush()
        return self.answer()

    def close(self):
        self.helper.stdin.close()
        self.helper.wait()


def measure(bise: pathlib.Path, model: pathlib.Path, top: pathlib.Path) -> bool:
    mergekit = pathlib.Path(sys.executable).parent / "mergekit-yaml"
    models = [model, top / "b"]
    total = in_a_process(perturb, *models)
    recipe, in_page, report = top / "recipe.yml", top / "page.yml", top / "report.json"
    recipe.write_text(RECIPE.format(a=models[0], b=models[1]))
    in_page.write_text(RECIPE.format(a="a", b="b"))
    ours, theirs = top / "ours", top / "theirs"
    commands = {
        NATIVE: [bise, "merge", recipe, ours, "--report", report, "--backend", "cpu"],
        MERGEKIT: [mergekit, recipe, theirs],
        START: [mergekit, "--help"],
    }
    chromium = Chromium(bise, in_page, models)
    for name in (NATIVE, MERGEKIT):
        run(commands[name])
    hashed = chromium.merge("hashes")
    print(in_a_process(validate, models, ours, report, theirs, hashed["hashes"]))
    one_thread, all_threads = in_a_process(bandwidth)
    # Watching takes time of its own, so what is watched is not timed.
    watched = {CHROMIUM: chromium.merge("opfs watched"), DISCARD: chromium.merge("discard watched")}
    peaks = {name: page["memory"]["processes"] for name, page in watched.items()}

    seconds = {}
    for _ in range(RUNS):
        for name in (NATIVE, CHROMIUM, DISCARD, MERGEKIT, START):
            for out in (ours, theirs):
                shutil.rmtree(out, ignore_errors=True)
            if name in commands:
                took, peak = run(commands[name])
            else:
                page = chromium.merge("opfs" if name == CHROMIUM else "discard")
                if page["bytes"] < 2 * total:
                    raise SystemExit(f"Chromium fetched only {page['bytes']} bytes of {2 * total}")
                took, peak = page["seconds"], 0
            seconds.setdefault(name, []).append(took)
            peaks[name] = max(peaks.get(name, 0), peak)
    chromium.close()

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        f"{total / 1e6:.0f} MB of tensors from twice as many; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{chromium.version}, median of {RUNS}"
    )
    for name, median in medians.items():
        rate = "" if name == START else f"{total / 1e6 / median:8.0f} MB/s"
        each = " ".join(f"{each:.2f}" for each in seconds[name])
        print(f"{name:24}{median:7.2f} s{rate:>14}{peaks[name] / 2**20:8.0f} MiB peak   each {each}")
    pages = list(watched.values())
    mib = {kind: max(page["memory"][kind] for page in pages) / 2**20 for kind in pages[0]["memory"]}
    idle = max(page["idle"] for page in pages) / 2**20
    print(
        f"Chromium: wasm {mib['wasm']:.0f} MiB, JavaScript heap of the worker {mib['heap']:.0f} MiB, all buffers of the "
        f"worker {mib['buffers']:.0f} MiB; all processes {mib['processes']:.0f} MiB, {idle:.0f} MiB before a merge; "
        f"{max(page['bytes'] for page in pages) / 1e6:.0f} MB read by its server, computed on {'/'.join(pages[0]['paths'])}"
    )
    print(
        f"memory reads two and writes one at {one_thread / 1e9:.1f} GB/s with one thread, {all_threads / 1e9:.1f} with all; "
        f"the native merge, files included, at {3 * total / medians[NATIVE] / 1e9:.1f} GB/s "
        f"({3 * total / medians[NATIVE] / one_thread:.2f} of one thread's)"
    )
    reached = True
    for name, target in TARGETS.items():
        ratio = medians[MERGEKIT] / medians[name]
        without = (medians[MERGEKIT] - medians[START]) / medians[name]
        print(f"{name}: {ratio:.1f} times mergekit's throughput ({without:.1f} without mergekit's start); target {target:g}")
        reached = reached and ratio >= target
    return reached


def main() -> None:
    bise, model = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        reached = measure(bise, model, pathlib.Path(folder))
    if not reached:
        raise SystemExit("failed: below a target")


if __name__ == "__main__":
    main()
