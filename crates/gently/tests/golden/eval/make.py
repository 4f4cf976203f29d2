#!/usr/bin/env python3
"""Write the tokenizer and the expected numbers of this folder with lm-evaluation-harness.

The model is the random Llama of ../../../../gently-models/tests/golden/llama (53 tokens, a context of 24). Its tokenizer is trained
here: BPE whose words keep the space in front, so that a context and its continuation share a word when the space is not where the
task puts it. The task files *.yaml are read by both programs as they are; expected.json has for each task

    metrics  {name: [value, standard error]}
    items    [{context, pairs: [[continuation, log-likelihood, greedy]]}]  or  [{context, answer, filtered: {name: text}}]
             or  [{context, log_likelihood}]

Run: python make.py   (lm_eval, torch and transformers; the versions used are in expected.json)
"""

import json
import os
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.chdir(HERE)
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

MODEL = HERE / "../../../../gently-models/tests/golden/llama"
WORDS = "the sea is grey and we sail on a long night under old stars at the café".split()


def tokenizer():
    draw = random.Random(5)
    text = [" ".join(draw.choice(WORDS) for _ in range(6)) + "?\n" for _ in range(200)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[^\s]+|\s"), "isolated")
    bpe.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=53, special_tokens=["<s>"], show_progress=False)
    bpe.train_from_iterator(text, trainer)
    bpe.save("tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"}
    Path("tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    assert bpe.get_vocab_size() == 53, bpe.get_vocab_size()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>")


def main():
    tokens = tokenizer()
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    harness = HFLM(pretrained=model, tokenizer=tokens, batch_size=1, max_length=24, device="cpu")
    names = sorted(p.stem for p in HERE.glob("*.yaml"))
    done = lm_eval.simple_evaluate(
        model=harness,
        tasks=names,
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        log_samples=True,
        bootstrap_iters=10,
    )
    expected = {"versions": {m.__name__: m.__version__ for m in (torch, transformers)}}
    expected["versions"]["lm_eval"] = __import__("importlib.metadata").metadata.version("lm_eval")
    for name in names:
        found = {k: v for k, v in done["results"][name].items() if "," in k}
        metrics = {}
        for key, value in found.items():
            metric, kind = key.split(",")
            if metric.endswith("_stderr"):
                continue
            error = found[f"{metric}_stderr,{kind}"]
            error = None if error == "N/A" else float(error)
            metrics[metric if kind == "none" else key] = [float(value), error]
        items = {}
        for sample in done["samples"][name]:
            item = items.setdefault(sample["doc_id"], {})
            arguments = list(sample["arguments"].values()) if isinstance(sample["arguments"], dict) else sample["arguments"]
            pairs = [list(a.values()) if isinstance(a, dict) else list(a) for a in arguments]
            item["context"] = pairs[0][0]
            if len(pairs[0]) == 1:
                item["log_likelihood"] = float(sample["resps"][0][0])
            elif isinstance(pairs[0][1], dict):
                item["answer"] = sample["resps"][0][0]
                item.setdefault("filtered", {})[sample["filter"]] = sample["filtered_resps"][0]
            else:
                likely = [r[0] for r in sample["resps"]]
                item["pairs"] = [[p[1], float(l), str(g) == "True"] for p, (l, g) in zip(pairs, likely)]
        expected[name] = {"metrics": metrics, "items": [items[i] for i in sorted(items)]}
    Path("expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
