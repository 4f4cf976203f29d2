#!/usr/bin/env python3
"""Runs Gently and llama.cpp in turn on the same GGUF files and writes what came out.

    infer.py --gently PROGRAM --llama FOLDER --model FILE.gguf [--types Q4_0,Q8_0] [--work decode,prefill] [--rounds 5]

Files of the other types are made once by llama.cpp's own quantizer, through F32, so that both programs read the same
bytes. A round runs every program once, each with one warm-up of its own; a figure is the median of the rounds. Everything, also each round's figure, goes into
benches/results/infer-DATE.json. Quote ratios from there.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# name: (prefill, decode, depth, batch)
WORK = {
    "decode": (0, 128, 0, 1),
    "decode-2048": (0, 64, 2048, 1),
    "decode-4096": (0, 64, 4096, 1),
    "prefill": (512, 0, 0, 1),
    "prefill-2048": (512, 0, 2048, 1),
    "streams-8": (0, 64, 16, 8),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(command):
    """Runs a program; its output and its peak resident memory in bytes."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nfailed with {child.returncode}:\n{err.read()[-4000:]}")
        return out.read(), used.ru_maxrss * 1024


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
        program = pathlib.Path(a.llama) / "llama-batched-bench"
        lengths = ["-npp", depth, "-ntg", decode, "-npl", batch, "-c", 4096, "--output-format", "jsonl"]
        out, _ = call([program] + common + lengths)
        rates = [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")]
        return {"tokens_per_second": rates[-1]}
    program = pathlib.Path(a.llama) / "llama-bench"
    lengths = ["-p", prefill, "-n", decode, "-d", depth, "-r", 1, "-o", "json"]
    out, _ = call([program] + common + lengths)
    return {"tokens_per_second": json.loads(out)[0]["avg_ts"]}


def memory(a, path):
    """Peak resident memory of writing 64 tokens. Ours by `gently generate`: our bench measures the machine as well."""
    prompt = ["--prompt", "Once upon a time", "--max-tokens", 64, "--temperature", 0, "--threads", a.threads]
    _, mine = call([a.gently, "generate", path] + prompt)
    program = pathlib.Path(a.llama) / "llama-bench"
    _, other = call([program, "-m", path, "-t", a.threads, "-p", 0, "-n", 64, "-r", 1])
    return {"gently": mine, "llama.cpp": other}


def file_of(a, ty):
    """The model in that type: the file itself, or one made from it."""
    model = pathlib.Path(a.model)
    if ty in model.name:
        return model
    folder = pathlib.Path(a.files)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.stem.rsplit('.', 1)[0]}.{ty}.gguf"
    if not path.exists():
        program = pathlib.Path(a.llama) / "llama-quantize"
        source = model if ty == "F32" else file_of(a, "F32")
        part = path.with_suffix(".part")
        pure = [] if ty == "F32" else ["--pure"]
        call([program, "--allow-requantize", *pure, source, part, ty])
        part.rename(path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gently", default=ROOT / "target/release/gently")
    parser.add_argument("--llama", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", default=ROOT / "target/peers/files", help="where files of other types are kept")
    parser.add_argument("--types", default="Q4_0,Q4_1,Q8_0,F16,F32")
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    a = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: the machine is busy (load {load:.1f}); figures will be wrong")
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "machine": platform.platform(), "cpu": cpu[:1]}
    about |= {"threads": a.threads, "load_before": load, "commit": commit, "rounds": a.rounds}
    results = []
    for ty in a.types.split(","):
        path = file_of(a, ty)
        peak = memory(a, path)
        say(f"{ty:5} peak memory   gently {peak['gently'] / 1e6:7.0f} MB,       llama.cpp {peak['llama.cpp'] / 1e6:7.0f}")
        results.append({"type": ty, "work": "memory", "peak_bytes": peak})
        for work in a.work.split(","):
            runs = {"gently": [], "llama.cpp": []}
            for _ in range(a.rounds):
                runs["gently"].append(ours(a, path, work))
                runs["llama.cpp"].append(theirs(a, path, work))
            median = {name: statistics.median(r["tokens_per_second"] for r in of) for name, of in runs.items()}
            ratio = median["gently"] / median["llama.cpp"]
            say(
                f"{ty:5} {work:13} gently {median['gently']:7.1f} tokens/s, llama.cpp {median['llama.cpp']:7.1f}: {ratio:.2f}x"
            )
            results.append({"type": ty, "work": work, "ratio": ratio, "median": median, "runs": runs})
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    out = pathlib.Path(a.out or ROOT / f"benches/results/infer-{stamp}.json")
    out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    print(out)


main()
