#!/usr/bin/env python3
"""Write facts.json: what lm-evaluation-harness finds for examples/eval/facts.yaml with SmolLM2's published file in f32.

    items    [log-likelihood of each choice] for each item
    metrics  {name: value}

Run: python make_facts.py SmolLM2-135M-Instruct.Q4_1.gguf   (lm_eval, gguf, torch and transformers; the versions used are in facts.json)
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = HERE / "../../../../../examples/eval/facts.yaml"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import torch
import yaml
from jinja2 import Template
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    file = Path(sys.argv[1]).resolve()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    harness = HFLM(pretrained=model, tokenizer=tokens, batch_size=1, device="cpu")
    task = yaml.safe_load(TASK.read_text())
    items = [json.loads(line) for line in (TASK.parent / task["data"]).read_text().splitlines()]
    render = Template(task["doc_to_text"]).render
    shots = task["fewshot_items"][: task["num_fewshot"]]
    head = "".join(f"{render(s)} {s['choices'][s['answer']]}\n\n" for s in shots)
    asked = [(head + render(item), f" {choice}") for item in items for choice in item["choices"]]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
    found = iter([sum_ for sum_, _ in harness.loglikelihood(requests)])
    sums = [[next(found) for _ in item["choices"]] for item in items]
    best = lambda values: max(range(len(values)), key=values.__getitem__)
    right = sum(best(s) == i["answer"] for s, i in zip(sums, items))
    norm = sum(best([v / len(c) for v, c in zip(s, i["choices"])]) == i["answer"] for s, i in zip(sums, items))
    expected = {
        "versions": {name: version(name) for name in ("lm_eval", "torch", "transformers")},
        "metrics": {"acc": right / len(items), "acc_norm": norm / len(items)},
        "items": [[round(v, 5) for v in s] for s in sums],
    }
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in expected.items() if k != "items"]
    lines.append(' "items": [\n' + ",\n".join(f"  {json.dumps(s)}" for s in expected["items"]) + "\n ]")
    (HERE / "facts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
