"""Load merged checkpoints in transformers and compare with what bise says of them.

    pip install -r tests/requirements-torch.txt
    python tests/transformers_check.py BISE        # the command, such as target/debug/bise

`BISE merge` writes tale-x-case as one file, in shards, and as FP8. transformers must load each with
no tensor missing, unexpected or mis-shaped, and give the logits of `BISE logits`; the wide ones
must also give those of fixtures/golden.json, which transformers recorded from mergekit's output.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
            good = worst["bise"] <= TOLERANCE and (name == "FP8" or worst["golden"] <= TOLERANCE) and same_ids
            failures += not good
            shares = ", ".join(f"{share:.1e} from {whose}" for whose, share in worst.items())
            print(f"{'ok' if good else 'FAILED'}  {name}: logits {shares}; tokenizer {'agrees' if same_ids else 'differs'}")
    print(f"{len(OUTPUTS) - failures} passed, {failures} failed")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
