"""Load merged and exported checkpoints in transformers and compare with what bise says of them.

    pip install -r tests/requirements-transformers.txt
    python tests/transformers_check.py BISE        # the command, such as target/debug/bise

`BISE merge` writes tale-x-case as one file, in shards, and as FP8. transformers must load each with
no tensor missing, unexpected or mis-shaped, and give the logits of `BISE logits`; the wide ones
must also give those of fixtures/golden.json, which transformers recorded from mergekit's output.

The FP8 one must be held in FP8 by the compressed-tensors package, with the bytes that bise wrote; what
that package decompresses it to, and what bise reads of it and of a copy that transformers saved, must
be the same weights bit for bit.

So must `BISE export` of a wide model, of a tied one, and of FP8 models in several layouts. Where a row has
one scale, the weights must be those of the original bit for bit, as this program computed them, and
bise must give the same logits before and after; blocks may be rounded once more, and it must say so.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
sys.dont_write_bytecode = True  # of the module beside this one

import torch
from compressed_tensors.compressors import decompress_module
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import fp8_layouts

logging.disable_progress_bar()

TOP = pathlib.Path(__file__).resolve().parent.parent
TALE = TOP / "www/models/tale"
RECIPE = TOP / "tests/fixtures/recipes/tale-x-case.yml"
GOLDEN = json.loads((TOP / "tests/fixtures/golden.json").read_text())
OUTPUTS = {
    "one file": [],
    "shards": ["--shard-size", "1000000"],
    "FP8": ["--f8"],
}
# How far logits may be apart, as a share of the largest. Executing FP8, bise rounds nothing else.
TOLERANCE = 5e-3


def run(command: str, *arguments: str) -> subprocess.CompletedProcess:
    result = subprocess.run([command, *arguments], cwd=TOP, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"bise {' '.join(arguments)}: {result.stderr}")
    return result


def bise(command: str, *arguments: str) -> str:
    return run(command, *arguments).stdout


def top_logits(command: str, directory: pathlib.Path, ids: list, weights: str) -> list:
    arguments = ["--ids", ",".join(map(str, ids)), "--weights", weights, "--json"]
    return json.loads(bise(command, "logits", str(directory), *arguments))["top"]


def load(directory: pathlib.Path) -> torch.nn.Module:
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            raise SystemExit(f"{directory}: {key}: {info[key]}")
    return model.eval()


def tensors(directory: pathlib.Path) -> dict:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def wide_copy(directory: pathlib.Path) -> pathlib.Path:
    """Where :func:`read_by_bise` leaves what it read."""
    return directory.with_name(directory.name + "-wide")


def read_by_bise(command: str, directory: pathlib.Path) -> dict:
    """All weights as bise reads them: a merge of the model alone, in float32."""
    out = wide_copy(directory)
    recipe = directory.with_name(directory.name + ".yml")
    recipe.write_text(f"models: [{{model: {directory}}}]\nmerge_method: passthrough\ndtype: float32\n")
    bise(command, "merge", str(recipe), str(out))
    return tensors(out)


def wrong_fp8(command: str, directory: pathlib.Path) -> tuple[list[str], dict]:
    """What of an FP8 checkpoint does not go through compressed-tensors unchanged; its decompressed weights."""
    model, stored = load(directory), tensors(directory)
    wrong = []
    if type(model.hf_quantizer).__name__ != "CompressedTensorsHfQuantizer":
        wrong.append(f"it is read by {type(model.hf_quantizer).__name__}")
    # Before the first forward pass, which would decompress them.
    linear = {name: module for name, module in model.named_modules() if name.endswith("_proj")}
    for name, module in linear.items():
        if module.weight.dtype != torch.float8_e4m3fn or not hasattr(module, "quantization_scheme"):
            wrong.append(f"{name} is held as {module.weight.dtype}")
            continue
        for part in ("weight", "weight_scale"):
            if not torch.equal(bits(getattr(module, part)), bits(stored[f"{name}.{part}"])):
                wrong.append(f"{name}.{part} is not what was stored")
    if len(linear) != sum(name.endswith("_scale") for name in stored) or not linear:
        wrong.append(f"{len(linear)} linear layers, of {len(stored)} tensors")
    again = directory.with_name(directory.name + "-again")
    model.save_pretrained(again)
    ours = {"bise's own": read_by_bise(command, directory), "transformers' copy": read_by_bise(command, again)}
    for module in linear.values():
        decompress_module(module)
    theirs = {name: weight for name, weight in model.state_dict().items() if name.endswith(".weight")}
    for whose, weights in ours.items():
        # A tied head is stored once.
        if set(weights) | {"lm_head.weight"} != set(theirs):
            wrong.append(f"bise reads other tensors from {whose}: {sorted(set(weights) ^ set(theirs))[:5]}")
            continue
        for name in weights:
            weight = theirs[name]
            if weight.dtype != torch.float32 or not torch.equal(bits(weight), bits(weights[name])):
                wrong.append(f"{name} is another in bise, read from {whose}")
    return wrong, theirs


def wrong_weights(weights: dict, exact: dict) -> list[str]:
    """Which weights are not those, bit for bit."""
    return [name for name in exact if not torch.equal(bits(weights[name]), bits(exact[name]))]


def furthest_step(weights: dict, exact: dict) -> float:
    """How far weights are from those, at most, as a share of the FP8 step there: a half is rounding."""
    largest = 0.0
    for name in (name for name in exact if name.endswith("_proj.weight")):
        scale = exact[name].abs().amax(1, keepdim=True) / 448
        step = 2.0 ** ((exact[name] / scale).abs().clamp(min=2**-6).log2().floor() - 3)
        largest = max(largest, ((weights[name] - exact[name]) / scale / step).abs().max().item())
    return largest


def wrong_export(command: str, source: pathlib.Path, out: pathlib.Path, exact: dict, rounds: bool) -> tuple[list[str], float]:
    """What is wrong with the export of a model to `out`, and how far its logits are from bise's."""
    result = run(command, "export", str(source), str(out))
    wrong, weights = wrong_fp8(command, out)
    if ("rounded once more" in result.stderr) != rounds:
        wrong.append(f"bise says {result.stderr!r}")
    if rounds:
        # Rounding may fall on either side of a tie.
        if not 0.0 < furthest_step(weights, exact) < 0.501:
            wrong.append(f"weights are {furthest_step(weights, exact)} steps away")
    else:
        wrong += [f"{name} is another than that of the original" for name in wrong_weights(weights, exact)]
    model, worst = load(out), 0.0
    # Layouts differ in weights alone, which were compared: one prompt tells whether they are put to use.
    for case in GOLDEN["models"]["tale"][: None if source == TALE else 1]:
        ids = case["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        ours = top_logits(command, out, ids, "checkpoint")
        worst = max(worst, furthest(logits, ours))
        if not rounds and top_logits(command, source, ids, "f8") != ours:
            wrong.append("bise's logits are not those of the original")
    if not worst <= TOLERANCE:
        wrong.append(f"logits are {worst} from bise's")
    return wrong, worst


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def exported(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"exported-{slug(name)}"


def check_exports(command: str, folder: pathlib.Path) -> int:
    """Exports a wide model, a tied one, and FP8 in several layouts; how many of them are wrong."""
    failures = 0
    sources = {"wide": (TALE, {}), "tied": (folder / "tied", fp8_layouts.tie(TALE, folder / "tied"))}
    for name in fp8_layouts.LAYOUTS:
        made = folder / f"made-{slug(name)}"
        sources[name] = (made, fp8_layouts.make(TALE, made, name))
    for name, (source, exact) in sources.items():
        wrong, worst = wrong_export(command, source, exported(folder, name), exact, "blocks" in name)
        for line in wrong[:5]:
            print(f"        {line}")
        failures += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok'}  export, {name}: logits {worst:.1e} from bise")
    # Negative control: a bit of one weight.
    name, exact = "model.layers.2.mlp.up_proj.weight", sources["per tensor"][1]
    weights = tensors(wide_copy(exported(folder, "per tensor")))
    bits(weights[name])[0, 0] ^= 1
    noticed = wrong_weights(weights, exact) == [name]
    print(f"{'ok' if noticed else 'FAILED'}  a bit that differs is noticed")
    return failures + (not noticed)


def furthest(logits: torch.Tensor, expected: list) -> float:
    """The largest difference to `[[id, logit], ...]`, as a share of the largest logit there."""
    largest = max(abs(logit) for _, logit in expected)
    return max(abs(logits[id].item() - logit) for id, logit in expected) / largest


def main() -> None:
    command = str(pathlib.Path(sys.argv[1]).resolve())
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, options in OUTPUTS.items():
            out = pathlib.Path(folder) / name.replace(" ", "-")
            models = ["--model", "./tale=www/models/tale", "--model", "./case=www/models/case"]
            bise(command, "merge", str(RECIPE), str(out), *models, *options)
            model = load(out)
            tokenizer = AutoTokenizer.from_pretrained(out)
            worst = {"bise": 0.0, "golden": 0.0}
            for case in GOLDEN["models"]["merged"]:
                ids = case["input_ids"]
                with torch.no_grad():
                    logits = model(torch.tensor([ids])).logits[0, -1]
                ours = top_logits(command, out, ids, "checkpoint")
                worst["bise"] = max(worst["bise"], furthest(logits, ours))
                worst["golden"] = max(worst["golden"], furthest(logits, case["top20"]))
            text = next(prompt["text"] for prompt in GOLDEN["prompts"] if prompt["name"] == "short")
            expected = next(prompt["input_ids"] for prompt in GOLDEN["prompts"] if prompt["name"] == "short")
            same_ids = tokenizer(text).input_ids == expected
            wrong = wrong_fp8(command, out)[0] if name == "FP8" else []
            for line in wrong:
                print(f"        {line}")
            good = not wrong and worst["bise"] <= TOLERANCE and (name == "FP8" or worst["golden"] <= TOLERANCE) and same_ids
            failures += not good
            shares = ", ".join(f"{share:.1e} from {whose}" for whose, share in worst.items())
            print(f"{'ok' if good else 'FAILED'}  {name}: logits {shares}; tokenizer {'agrees' if same_ids else 'differs'}")
        failures += check_exports(command, pathlib.Path(folder))
    checks = len(OUTPUTS) + len(fp8_layouts.LAYOUTS) + 3
    print(f"{checks - failures} passed, {failures} failed")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
