"""Load merged checkpoints in transformers and compare with what bise says of them.

    pip install -r tests/requirements-transformers.txt
    python tests/transformers_check.py BISE        # the command, such as target/debug/bise

`BISE merge` writes tale-x-case as one file, in shards, and as FP8. transformers must load each with
no tensor missing, unexpected or mis-shaped, and give the logits of `BISE logits`; the wide ones
must also give those of fixtures/golden.json, which transformers recorded from mergekit's output.

The FP8 one must be held in FP8 by the compressed-tensors package, with the bytes that bise wrote; what
that package decompresses it to, and what bise reads of it and of a copy that transformers saved, must
be the same weights bit for bit.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from compressed_tensors.compressors import decompress_module
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()

TOP = pathlib.Path(__file__).resolve().parent.parent
RECIPE = TOP / "tests/fixtures/recipes/tale-x-case.yml"
GOLDEN = json.loads((TOP / "tests/fixtures/golden.json").read_text())
OUTPUTS = {
    "one file": [],
    "shards": ["--shard-size", "1000000"],
    "FP8": ["--f8"],
}
# How far logits may be apart, as a share of the largest. Executing FP8, bise rounds nothing else.
TOLERANCE = 5e-3


def bise(command: str, *arguments: str) -> str:
    result = subprocess.run([command, *arguments], cwd=TOP, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"bise {' '.join(arguments)}: {result.stderr}")
    return result.stdout


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


def read_by_bise(command: str, directory: pathlib.Path) -> dict:
    """All weights as bise reads them: a merge of the model alone, in float32."""
    out = directory.with_name(directory.name + "-wide")
    recipe = directory.with_name(directory.name + ".yml")
    recipe.write_text(f"models: [{{model: {directory}}}]\nmerge_method: passthrough\ndtype: float32\n")
    bise(command, "merge", str(recipe), str(out))
    return tensors(out)


def wrong_fp8(command: str, directory: pathlib.Path) -> list[str]:
    """What of an FP8 checkpoint does not go through compressed-tensors unchanged."""
    model, stored = load(directory), tensors(directory)
    wrong = []
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
    return wrong


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
                arguments = ["--ids", ",".join(map(str, ids)), "--weights", "checkpoint", "--json"]
                ours = json.loads(bise(command, "logits", str(out), *arguments))["top"]
                worst["bise"] = max(worst["bise"], furthest(logits, ours))
                worst["golden"] = max(worst["golden"], furthest(logits, case["top20"]))
            text = next(prompt["text"] for prompt in GOLDEN["prompts"] if prompt["name"] == "short")
            expected = next(prompt["input_ids"] for prompt in GOLDEN["prompts"] if prompt["name"] == "short")
            same_ids = tokenizer(text).input_ids == expected
            wrong = wrong_fp8(command, out) if name == "FP8" else []
            for line in wrong:
                print(f"        {line}")
            good = not wrong and worst["bise"] <= TOLERANCE and (name == "FP8" or worst["golden"] <= TOLERANCE) and same_ids
            failures += not good
            shares = ", ".join(f"{share:.1e} from {whose}" for whose, share in worst.items())
            print(f"{'ok' if good else 'FAILED'}  {name}: logits {shares}; tokenizer {'agrees' if same_ids else 'differs'}")
    print(f"{len(OUTPUTS) - failures} passed, {failures} failed")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
