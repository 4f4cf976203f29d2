#!/usr/bin/env python3
"""Check that Python transformers reads what we export.

    cargo run -p gently-models --example export_random -- FOLDER
    python check_export.py FOLDER

Each folder inside FOLDER holds an exported model and `expected.safetensors` with our `ids` and `logits`.
Loads each with transformers, compares the logits to 1e-4 relative, and checks that no weight was missing or
left over. Exits 1 if anything differs.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

TOLERANCE = 1e-4


def check(folder):
    expected = load_file(folder / "expected.safetensors")
    kind = AutoConfig.from_pretrained(folder).model_type
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    problems = [f"{key}: {value}" for key, value in info.items() if value]
    with torch.no_grad():
        logits = model.eval()(expected["ids"].long()).logits
    off = ((logits - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()
    if not off <= TOLERANCE:
        problems.append(f"logits differ by {off:.2e} relative")
    print(f"{folder.name} ({kind}): logits agree to {off:.1e}", *problems, sep="\n  ")
    return not problems


def main():
    folders = sorted(f.parent for f in Path(sys.argv[1]).glob("*/expected.safetensors"))
    if not folders:
        sys.exit(f"{sys.argv[1]} holds no exported models")
    ok = [check(folder) for folder in folders]
    sys.exit(0 if all(ok) else 1)


if __name__ == "__main__":
    main()
