#!/usr/bin/env python3
"""PyTorch's side of the comparison of embeddings: transformers' BertModel, masked mean, length one.

Sorts the texts by length in tokens, longest first, pads batches of --batch to their longest, and prints one JSON object with
the seconds of tokenising and computing all texts; the vectors go to --out as .npy, in the order of the texts.

    embed_peer.py --model DIR --texts FILE --out vectors.npy [--batch 32] [--threads 2] [--most 256]
"""

import argparse
import json
import sys
import time

import numpy as np
import torch
import transformers


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--texts", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--most", type=int, default=256)
    a = arguments.parse_args()

    torch.set_num_threads(a.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
    model = transformers.AutoModel.from_pretrained(a.model).eval()
    texts = open(a.texts, encoding="utf-8").read().splitlines()

    @torch.inference_mode()
    def embed(texts):
        ids = tokenizer(texts, truncation=True, max_length=a.most)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
        vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
        for at in range(0, len(order), a.batch):
            part = order[at : at + a.batch]
            batch = tokenizer.pad({"input_ids": [ids[i] for i in part]}, return_tensors="pt")
            rows = model(**batch).last_hidden_state  # (B, T, C)
            mask = batch["attention_mask"].unsqueeze(-1).to(rows.dtype)
            mean = (rows * mask).sum(1) / mask.sum(1)
            vectors[part] = torch.nn.functional.normalize(mean).numpy()
        return vectors, sum(map(len, ids))

    # The first pass of a process makes what later ones find.
    embed(texts[: a.batch])
    begun = time.perf_counter()
    vectors, tokens = embed(texts)
    seconds = time.perf_counter() - begun
    np.save(a.out, vectors)
    program = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    json.dump({"program": program, "texts": len(texts), "tokens": tokens, "seconds": seconds}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
