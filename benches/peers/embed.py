#!/usr/bin/env python3
"""Runs `gently embed` and PyTorch's transformers in turn on the same texts, and writes documents per second.

    embed.py --model minilm/ --data documents.txt [--rounds 5] [--count 1000] [--python PYTHON]

Each round runs every program once, as a process of its own; what is timed is tokenising and computing all texts, not loading.
Ours has no pass before it that does not count, PyTorch has one. A program's figure is the median of its rounds. The vectors
of both are compared: the largest difference of a number goes into the result beside the figures, in
benches/results/embed-DATE.json. Quote ratios from there.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from compare import HERE, about, arguments, call, save, say


def ours(a, texts, threads):
    out, peak = call([a.gently, "embed", a.model, "--file", texts, "--json", "--threads", threads])
    said = json.loads(out)
    vectors = np.array([item["embedding"] for item in said["embeddings"]], dtype=np.float32)
    return {"seconds": said["seconds"], "tokens": said["tokens"], "peak_bytes": peak}, vectors


def theirs(a, texts, folder):
    path = folder / "vectors.npy"
    command = [a.python, HERE / "embed_peer.py", "--model", a.model, "--texts", texts, "--out", path]
    out, peak = call(command + ["--batch", a.batch, "--threads", a.threads, "--most", a.most])
    return json.loads(out) | {"peak_bytes": peak}, np.load(path)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder such as all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, required=True, help="a text whose lines are the documents")
    parser.add_argument("--count", type=int, default=1000, help="documents, from the first on; empty lines do not count")
    parser.add_argument("--batch", type=int, default=32, help="of PyTorch")
    parser.add_argument("--most", type=int, default=256, help="tokens of a document, as the model's files say")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and transformers")
    a = parser.parse_args()
    a.model = a.model.resolve()

    report = about(a)
    lines = [line.strip() for line in a.data.read_text(encoding="utf-8").splitlines()]
    documents = [line for line in lines if line][: a.count]
    if not documents or a.rounds < 1:
        sys.exit("there is nothing to measure")
    runs = {"gently": [], "pytorch": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        texts = folder / "texts.txt"
        texts.write_text("".join(f"{line}\n" for line in documents), encoding="utf-8")
        for round_ in range(a.rounds):
            mine, vectors = ours(a, texts, a.threads)
            peer, known = theirs(a, texts, folder)
            if mine["tokens"] != peer["tokens"]:
                sys.exit(f"{mine['tokens']} tokens here and {peer['tokens']} there: the texts were cut differently")
            apart = float(np.abs(vectors - known).max())
            for name, run in [("gently", mine), ("pytorch", peer)]:
                run["documents_per_second"] = len(documents) / run["seconds"]
                runs[name].append(run)
            rates = ", ".join(f"{name} {all_[-1]['documents_per_second']:.1f}" for name, all_ in runs.items())
            say(f"round {round_ + 1}: documents/s: {rates}; vectors differ by at most {apart:.1e}")
    median = {name: statistics.median(r["documents_per_second"] for r in all_) for name, all_ in runs.items()}
    say(f"median {median['gently']:.1f} and {median['pytorch']:.1f}: ratio {median['gently'] / median['pytorch']:.2f}")
    report |= {
        "model": a.model.name,
        "documents": len(documents),
        "tokens": runs["gently"][0]["tokens"],
        "batch": a.batch,
        "peer": runs["pytorch"][0]["program"],
        "median_documents_per_second": median,
        "ratio": median["gently"] / median["pytorch"],
        "largest_difference": apart,
        "runs": runs,
    }
    save(a, "embed", report)


if __name__ == "__main__":
    main()
