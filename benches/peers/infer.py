#!/usr/bin/env python3
"""Runs Gently and llama.cpp in turn on the same GGUF files and writes what came out.

    infer.py --gently PROGRAM --llama FOLDER --model FILE.gguf [--types Q4_0,Q8_0] [--work decode,prefill] [--rounds 5]
             [--candle PROGRAM]

With --candle, `infer` of candle/ takes its turn as well, at the work that it can do: one stream, at most 4096 tokens.

Files of the other types are made once by llama.cpp's own quantizer, through F32, so that both programs read the same
bytes. A round runs every program once, each with one warm-up of its own; a figure is the median of the rounds. Everything,
also each round's figure, goes into benches/results/infer-DATE.json. Quote ratios from there.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

from compare import KEEP, ROOT, about, arguments, call, save, say

# name: (prefill, decode, depth, batch)
WORK = {
    "decode": (0, 128, 0, 1),
    "decode-2048": (0, 64, 2048, 1),
    "decode-4096": (0, 64, 4096, 1),
    "prefill": (512, 0, 0, 1),
    "prefill-2048": (512, 0, 2048, 1),
    "streams-8": (0, 64, 16, 8),
}


def ours(a, path, work):
    prefill, decode, depth, batch = WORK[work]
    out, _ = call(
        [a.gently, "bench", "--threads", a.threads, "--json", "infer", path, "--prefill", prefill, "--decode", decode]
        + ["--depth", depth, "--batch", batch, "--rounds", 1]
    )
    report = json.loads(out)
    figure = report["results"][0]
    return {
        "tokens_per_second": figure["tokens_per_second"],
        "load_seconds": report["load_seconds"],
        "gbps": figure["gbps"],
        "of_read_peak": figure["of_read_peak"],
        "gflops": figure["gflops"],
    }


def theirs(a, path, work):
    prefill, decode, depth, batch = WORK[work]
    common = ["-m", path, "-t", a.threads]
    if batch > 1:
        program = Path(a.llama) / "llama-batched-bench"
        lengths = ["-npp", depth, "-ntg", decode, "-npl", batch, "-c", 4096, "--output-format", "jsonl"]
        out, _ = call([program] + common + lengths)
        rates = [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")]
        return {"tokens_per_second": rates[-1]}
    program = Path(a.llama) / "llama-bench"
    lengths = ["-p", prefill, "-n", decode, "-d", depth, "-r", 1, "-o", "json"]
    out, _ = call([program] + common + lengths)
    return {"tokens_per_second": json.loads(out)[0]["avg_ts"]}


def candle(a, path, work):
    prefill, decode, depth, _ = WORK[work]
    lengths = ["--prefill", prefill, "--decode", decode, "--depth", depth]
    out, peak = call([a.candle, path, *lengths, "--threads", a.threads], RAYON_NUM_THREADS=a.threads, **KEEP)
    return json.loads(out) | {"peak_bytes": peak}


def candle_knows(work):
    prefill, decode, depth, batch = WORK[work]
    return batch == 1 and prefill + decode + depth <= 4096


def memory(a, path):
    """Peak resident memory of writing 64 tokens. Ours by `gently generate`: our bench measures the machine as well."""
    prompt = ["--prompt", "Once upon a time", "--max-tokens", 64, "--temperature", 0, "--threads", a.threads]
    _, mine = call([a.gently, "generate", path] + prompt)
    program = Path(a.llama) / "llama-bench"
    _, other = call([program, "-m", path, "-t", a.threads, "-p", 0, "-n", 64, "-r", 1])
    return {"gently": mine, "llama.cpp": other}


def first_token(a, path):
    """Seconds of a whole process that loads a warm file and computes one token; ours reads its tokenizer too."""
    program = Path(a.llama) / "llama-bench"
    commands = {
        "gently": [a.gently, "generate", path, "--prompt", "", "--max-tokens", 1, "--temperature", 0, "--threads", a.threads],
        "llama.cpp": [program, "-m", path, "-t", a.threads, "-p", 0, "-n", 1, "-r", 1, "--no-warmup"],
    }
    runs = {name: [] for name in commands}
    for round_ in range(a.rounds + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            call(command)
            # The first round warms the file.
            if round_ > 0:
                runs[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(of) for name, of in runs.items()}
    say(f"first token: gently {median['gently'] * 1e3:.0f} ms, llama.cpp {median['llama.cpp'] * 1e3:.0f} ms")
    return {"work": "first-token", "median_seconds": median, "runs": runs}


# A text that has been read twice and is begun again: what comes is a copy.
COPY = """The harbour keeps a log of every boat. The Alba came in on Monday at six with eleven crates of mackerel and left at
noon. The Brise came in on Tuesday at four with nine crates of herring and stayed for the night. The Corva came in on
Wednesday at seven with twenty crates of sprat, two of them broken, and left at once. The Dorade came in on Thursday at
five with thirteen crates of cod and waited for ice. The Elsa came in on Friday at three with nothing at all.
"""


def lookup(a, path):
    """Greedy writing of a text that stands in its prompt, with speculation by lookup and without."""
    # So often that models as small as these go on as it does. How far they do is told: the rest is no copy.
    begun = COPY.index(".") + 1
    prompt = 4 * (COPY + "\n") + COPY[:begun]
    command = [a.gently, "generate", path, "--prompt", prompt, "--max-tokens", 100, "--temperature", 0, "--json"]
    command += ["--threads", a.threads]
    runs = {"with": [], "without": []}
    texts = set()
    for _ in range(a.rounds):
        for name, more in [("with", []), ("without", ["--no-lookup"])]:
            said = json.loads(call(command + more)[0])
            runs[name].append(said["decode_tokens_per_second"])
            texts.add(said["text"])
    if len(texts) != 1:
        sys.exit("speculation changed the text")
    median = {name: statistics.median(of) for name, of in runs.items()}
    ratio = median["with"] / median["without"]
    text = texts.pop()
    copied = len(os.path.commonprefix([text, COPY[begun:]])) / min(len(text), len(COPY) - begun)
    say(
        f"lookup: {median['with']:.1f} tokens/s with it, {median['without']:.1f} without: {ratio:.2f}x, same text, "
        f"{100 * copied:.0f} % of it as in the prompt"
    )
    return {"work": "lookup", "median": median, "ratio": ratio, "copied": copied, "runs": runs, "text": text}


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "born": {"type": "integer"},
        "works": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 6},
        "summary": {"type": "string", "maxLength": 300},
    },
    "required": ["name", "born", "works", "summary"],
}


def constrained(a, path):
    """Greedy answers of the same length, held to a JSON schema and free, without speculation."""
    command = [a.gently, "generate", path, "--chat", "--prompt", "Describe William Shakespeare in JSON.", "--no-lookup"]
    command += ["--max-tokens", 120, "--temperature", 0, "--json", "--threads", a.threads]
    runs = {"schema": [], "free": []}
    for _ in range(a.rounds):
        for name, more in [("schema", ["--json-schema", json.dumps(SCHEMA)]), ("free", [])]:
            runs[name].append(json.loads(call(command + more)[0])["decode_tokens_per_second"])
    median = {name: statistics.median(of) for name, of in runs.items()}
    ratio = median["schema"] / median["free"]
    say(f"constrained: {median['schema']:.1f} tokens/s, free {median['free']:.1f}: {ratio:.2f}x")
    return {"work": "constrained", "median": median, "ratio": ratio, "runs": runs}


# Work that is timed by whole processes.
ALONE = {"first-token": first_token, "lookup": lookup, "constrained": constrained}


def file_of(a, ty):
    """The model in that type: the file itself, or one made from it."""
    model = Path(a.model)
    if ty in model.name:
        return model
    folder = Path(a.files)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.stem.rsplit('.', 1)[0]}.{ty}.gguf"
    if not path.exists():
        program = Path(a.llama) / "llama-quantize"
        source = model if ty == "F32" else file_of(a, "F32")
        part = path.with_suffix(".part")
        pure = [] if ty == "F32" else ["--pure"]
        call([program, "--allow-requantize", *pure, source, part, ty])
        part.rename(path)
    return path


def main():
    parser = arguments(__doc__)
    parser.add_argument("--llama", required=True, help="the folder of llama.cpp's programs")
    parser.add_argument("--candle", help="the program `infer` of candle/")
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", default=ROOT / "target/peers/files", help="where files of other types are kept")
    parser.add_argument("--types", default="Q4_0,Q4_1,Q8_0,F16,F32")
    parser.add_argument("--work", default=",".join([*WORK, *ALONE]))
    a = parser.parse_args()
    report = about(a) | {"rounds": a.rounds}
    results = []
    for ty in a.types.split(","):
        path = file_of(a, ty)
        peak = memory(a, path)
        say(f"{ty:5} peak memory   gently {peak['gently'] / 1e6:7.0f} MB,       llama.cpp {peak['llama.cpp'] / 1e6:7.0f}")
        results.append({"type": ty, "work": "memory", "peak_bytes": peak})
        for work in a.work.split(","):
            if work in ALONE:
                say(f"{ty}:")
                results.append({"type": ty} | ALONE[work](a, path))
                continue
            programs = {"gently": ours, "llama.cpp": theirs}
            if a.candle and candle_knows(work):
                programs["candle"] = candle
            runs = {name: [] for name in programs}
            for _ in range(a.rounds):
                for name, program in programs.items():
                    runs[name].append(program(a, path, work))
            median = {name: statistics.median(r["tokens_per_second"] for r in of) for name, of in runs.items()}
            ratios = {name: median["gently"] / median[name] for name in median if name != "gently"}
            others = ", ".join(f"{name} {median[name]:7.1f}: {ratio:.2f}x" for name, ratio in ratios.items())
            say(f"{ty:5} {work:13} gently {median['gently']:7.1f} tokens/s, {others}")
            results.append({"type": ty, "work": work, "ratio": ratios, "median": median, "runs": runs})
    save(a, "infer", report | {"results": results})


if __name__ == "__main__":
    main()
