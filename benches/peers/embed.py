#!/usr/bin/env python3
"""Runs `gently embed` and its peers in turn on the same texts, and writes documents per second.

    embed.py --model minilm/ --data text.txt [--rounds 5] [--count 1000] [--paragraphs] [--peer NAME] [--python PYTHON]
             [--type q8_0]

Peers are sentence-transformers, ONNX Runtime and transformers' BertModel in f32, all by default, and ONNX Runtime with its
own bytes (dynamic quantization of every product) where it is asked for. With --type the same encoder, stored by `gently
quantize`, takes its turn too. Each round runs every program once, as a process of its own; what is timed is tokenising and
computing all texts, not loading. Ours has no pass before it that does not count, the peers have one. A program's figure is
the median of its rounds. The vectors of all are compared with ours in f32: the largest difference of a number, and the
least and the mean cosine, go into the result beside the figures, in benches/results/embed-DATE.json. Quote ratios from there.
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
# The name of ONNX Runtime's own bytes, which are no f32 peer.
BYTES = "onnxruntime-int8"


def ours(a, model, texts):
    out, peak = call([a.gently, "embed", model, "--file", texts, "--json", "--threads", a.threads])
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
    parser.add_argument("--peer", action="append", choices=[*PEERS, BYTES], help="default: those in f32")
    parser.add_argument("--type", action="append", default=[], help="ours again, stored in this type, such as q8_0")
    parser.add_argument("--batch", type=int, default=32, help="of the peers")
    parser.add_argument("--most", type=int, default=256, help="tokens of a document, as the model's files say")
    parser.add_argument("--python", default=sys.executable, help="a Python with requirements.txt")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--onnx", type=Path, help="the model for ONNX Runtime (default: made once under target/)")
    a = parser.parse_args()
    a.peer = a.peer or PEERS
    a.model = a.model.resolve()
    a.onnx = a.onnx or target / "peers" / f"{a.model.name}.onnx"
    a.onnx.parent.mkdir(parents=True, exist_ok=True)
    if {"onnxruntime", BYTES} & set(a.peer) and not a.onnx.exists():
        say(f"writing {a.onnx}")
        call([a.python, HERE / "embed_peer.py", "--export", a.onnx, "--model", a.model])

    stored = {}
    for kind in a.type:
        stored[f"gently-{kind}"] = a.onnx.with_suffix(f".{kind}.gguf")
        stored[f"gently-{kind}"].unlink(missing_ok=True)
        call([a.gently, "quantize", a.model, stored[f"gently-{kind}"], "--type", kind])

    report = about(a)
    lines = documents(a)
    if not lines or a.rounds < 1:
        sys.exit("there is nothing to measure")
    runs = {name: [] for name in ["gently", *stored, *a.peer]}
    likeness = {name: {"difference": 0.0, "least_cosine": 1.0} for name in [*stored, *a.peer]}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        texts = folder / "texts.txt"
        texts.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for round_ in range(a.rounds):
            mine, vectors = ours(a, a.model, texts)
            runs["gently"].append(mine)
            for name, of in likeness.items():
                other, known = ours(a, stored[name], texts) if name in stored else theirs(a, name, texts, folder)
                if mine["tokens"] != other["tokens"]:
                    sys.exit(f"{mine['tokens']} tokens here, {other['tokens']} in {name}: the texts were cut differently")
                cosines = (vectors * known).sum(1)
                of["difference"] = max(of["difference"], float(np.abs(vectors - known).max()))
                of["least_cosine"] = min(of["least_cosine"], float(cosines.min()))
                of["mean_cosine"] = float(cosines.mean())
                runs[name].append(other)
            for of in runs.values():
                of[-1]["documents_per_second"] = len(lines) / of[-1]["seconds"]
            rates = ", ".join(f"{name} {of[-1]['documents_per_second']:.1f}" for name, of in runs.items())
            say(f"round {round_ + 1}: documents/s: {rates}")
    median = {name: statistics.median(r["documents_per_second"] for r in of) for name, of in runs.items()}
    peak = {name: max(r["peak_bytes"] for r in of) for name, of in runs.items()}
    ratio = {name: {peer: median[name] / median[peer] for peer in a.peer} for name in ["gently", *stored]}
    for name, of in runs.items():
        said = f"{name}: {median[name]:.1f} documents/s, peak memory {peak[name] / 1e6:.0f} MB"
        if name in likeness:
            near = likeness[name]
            said += f", cosine to gently at least {near['least_cosine']:.5f}, in the mean {near['mean_cosine']:.5f}"
        say(said)
    for name, of in ratio.items():
        say(f"{name} over " + ", ".join(f"{peer} {value:.2f}x" for peer, value in of.items()))
    report |= {
        "model": a.model.name,
        "data": a.data.name,
        "documents": len(lines),
        "tokens": runs["gently"][0]["tokens"],
        "batch": a.batch,
        "programs": {name: of[0]["program"] for name, of in runs.items()},
        "median_documents_per_second": median,
        "ratio": ratio,
        "likeness": likeness,
        "peak_bytes": peak,
        "runs": runs,
    }
    save(a, "embed", report)


if __name__ == "__main__":
    main()
