#!/usr/bin/env python3
"""Runs `gently embed` and its peers in turn on the same texts, and writes documents per second.

    embed.py --model minilm/ --data text.txt [--rounds 5] [--count 1000] [--paragraphs] [--peer NAME] [--python PYTHON]

Peers are sentence-transformers, ONNX Runtime and transformers' BertModel, all by default. Each round runs every program
once, as a process of its own; what is timed is tokenising and computing all texts, not loading. Ours has no pass before it
that does not count, the peers have one. A program's figure is the median of its rounds. The vectors of all are compared:
the largest difference of a number from ours goes into the result beside the figures, in benches/results/embed-DATE.json.
Quote ratios from there.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from compare import HERE, ROOT, about, arguments, call, save, say

PEERS = ["sentence-transformers", "onnxruntime", "transformers"]


def ours(a, texts):
    out, peak = call([a.gently, "embed", a.model, "--file", texts, "--json", "--threads", a.threads])
    said = json.loads(out)
    vectors = np.array([item["embedding"] for item in said["embeddings"]], dtype=np.float32)
    return {"program": "gently", "seconds": said["seconds"], "tokens": said["tokens"], "peak_bytes": peak}, vectors


def theirs(a, peer, texts, folder):
    path = folder / "vectors.npy"
    command = [a.python, HERE / "embed_peer.py", "--program", peer, "--model", a.model, "--texts", texts, "--out", path]
    command += ["--onnx", a.onnx, "--batch", a.batch, "--threads", a.threads, "--most", a.most]
    out, peak = call(command)
    return json.loads(out) | {"peak_bytes": peak}, np.load(path)


def documents(a):
    """The documents of a text, each on one line: its lines, or its paragraphs, which empty lines part."""
    text = a.data.read_text(encoding="utf-8")
    parts = text.split("\n\n") if a.paragraphs else text.split("\n")
    found = [" ".join(part.split()) for part in parts]
    return [one for one in found if one][: a.count]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder such as all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, required=True, help="a text whose lines are the documents")
    parser.add_argument("--paragraphs", action="store_true", help="documents are paragraphs, which empty lines part")
    parser.add_argument("--count", type=int, default=1000, help="documents, from the first on; empty ones do not count")
    parser.add_argument("--peer", action="append", choices=PEERS, help="default: all")
    parser.add_argument("--batch", type=int, default=32, help="of the peers")
    parser.add_argument("--most", type=int, default=256, help="tokens of a document, as the model's files say")
    parser.add_argument("--python", default=sys.executable, help="a Python with requirements.txt")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--onnx", type=Path, help="the model for ONNX Runtime (default: made once under target/)")
    a = parser.parse_args()
    a.peer = a.peer or PEERS
    a.model = a.model.resolve()
    a.onnx = a.onnx or target / "peers" / f"{a.model.name}.onnx"
    if "onnxruntime" in a.peer and not a.onnx.exists():
        a.onnx.parent.mkdir(parents=True, exist_ok=True)
        say(f"writing {a.onnx}")
        call([a.python, HERE / "embed_peer.py", "--export", a.onnx, "--model", a.model])

    report = about(a)
    lines = documents(a)
    if not lines or a.rounds < 1:
        sys.exit("there is nothing to measure")
    runs = {name: [] for name in ["gently", *a.peer]}
    apart = dict.fromkeys(a.peer, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        texts = folder / "texts.txt"
        texts.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for round_ in range(a.rounds):
            mine, vectors = ours(a, texts)
            runs["gently"].append(mine)
            for peer in a.peer:
                other, known = theirs(a, peer, texts, folder)
                if mine["tokens"] != other["tokens"]:
                    sys.exit(f"{mine['tokens']} tokens here, {other['tokens']} in {peer}: the texts were cut differently")
                apart[peer] = max(apart[peer], float(np.abs(vectors - known).max()))
                runs[peer].append(other)
            for of in runs.values():
                of[-1]["documents_per_second"] = len(lines) / of[-1]["seconds"]
            rates = ", ".join(f"{name} {of[-1]['documents_per_second']:.1f}" for name, of in runs.items())
            say(f"round {round_ + 1}: documents/s: {rates}")
    median = {name: statistics.median(r["documents_per_second"] for r in of) for name, of in runs.items()}
    peak = {name: max(r["peak_bytes"] for r in of) for name, of in runs.items()}
    ratio = {peer: median["gently"] / median[peer] for peer in a.peer}
    for peer in a.peer:
        say(
            f"gently {median['gently']:.1f} documents/s, {peer} {median[peer]:.1f}: {ratio[peer]:.2f}x; peak memory "
            f"{peak['gently'] / 1e6:.0f} MB and {peak[peer] / 1e6:.0f} MB; vectors differ by at most {apart[peer]:.1e}"
        )
    report |= {
        "model": a.model.name,
        "data": a.data.name,
        "documents": len(lines),
        "tokens": runs["gently"][0]["tokens"],
        "batch": a.batch,
        "programs": {name: of[0]["program"] for name, of in runs.items()},
        "median_documents_per_second": median,
        "ratio": ratio,
        "largest_difference": apart,
        "peak_bytes": peak,
        "runs": runs,
    }
    save(a, "embed", report)


if __name__ == "__main__":
    main()
