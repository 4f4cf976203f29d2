#!/usr/bin/env python3
"""Runs Gently and PyTorch in turn on the same model, weights, batches and settings, and writes what came out.

    run.py --data tinyshakespeare.txt [--case shakespeare-cpu] [--rounds 5] [--steps 60] [--python PYTHON]

For each case and each compute (f32, bf16):
  - the losses of the first --curve steps, ours against PyTorch eager: largest relative difference;
  - tokens per second: --rounds rounds, each a run of every program in turn; the first --warmup steps of a run do not
    count; a run's figure is its tokens over its seconds, a program's figure the median of its runs.
Everything, also each run's figure, goes into benches/results/train-DATE.json. Quote ratios from there.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Recipe and changes. No dropout: two programs do not draw the same random numbers.
CASES = {
    "shakespeare-cpu": ("shakespeare-cpu", []),
    "baby-gpt-b16": ("shakespeare-baby", ["train.batch=16", "model.dropout=0.0"]),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def ours(a, recipe, changes, compute, steps, decay):
    """One run of `gently train`: losses and seconds of its steps, from metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [a.gently, "train", recipe, "--data", a.data, "--out", out, "--threads", a.threads]
        quiet = ["eval.every=0", "eval.at_start=false", "eval.batches=1", "sample.every=0", "checkpoint.every=0"]
        length = [f"train.steps={steps}", f"optimizer.decay_steps={decay}", f"train.compute={compute}"]
        for change in changes + quiet + length:
            command += ["--set", change]
        call(command)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train_loss" in row]
    return {
        "losses": [row["train_loss"] for row in rows],
        "seconds": [row["seconds"]["total"] for row in rows],
        "tokens_per_step": rows[0]["tokens"],
    }


def theirs(a, export, mode, compute, steps):
    """One run of train_peer.py."""
    command = [a.python, HERE / "train_peer.py", "--export", export, "--steps", steps, "--mode", mode]
    return json.loads(call(command + ["--compute", compute, "--threads", a.threads]))


def speed(run, warmup):
    seconds = run["seconds"][warmup:]
    return run["tokens_per_step"] * len(seconds) / sum(seconds)


def machine():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def case(a, name):
    recipe, changes = CASES[name]
    result = {"case": name, "recipe": recipe, "changes": changes, "curve": {}, "speed": {}}
    # The schedule of the whole recipe, whatever part of it is run.
    decay = {"shakespeare-cpu": 2000, "shakespeare-baby": 5000}[recipe]
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder)
        steps = max(a.curve, a.steps)
        command = [a.export, recipe, a.data, export, steps]
        for change in changes + [f"optimizer.decay_steps={decay}"]:
            command.append(change)
        call(command)
        for compute in a.compute:
            if a.curve > 0:
                mine = ours(a, recipe, changes, compute, a.curve, decay)["losses"]
                peer = theirs(a, export, "eager", compute, a.curve)["losses"]
                worst = max(abs(x - y) / abs(y) for x, y in zip(mine, peer, strict=True))
                result["curve"][compute] = {"gently": mine, "pytorch": peer, "largest_relative_difference": worst}
                say(f"{name} {compute}: losses of {a.curve} steps differ by at most {worst:.2e}")
            if a.rounds == 0:
                continue
            programs = {
                "gently": lambda: ours(a, recipe, changes, compute, a.steps, decay),
                "pytorch eager": lambda: theirs(a, export, "eager", compute, a.steps),
                "pytorch compile": lambda: theirs(a, export, "compile", compute, a.steps),
            }
            figures = {program: [] for program in programs}
            for round_ in range(a.rounds):
                for program, run in programs.items():
                    figures[program].append(speed(run(), a.warmup))
                    say(f"{name} {compute} round {round_ + 1}: {program} {figures[program][-1]:.0f} tokens/s")
            medians = {program: statistics.median(values) for program, values in figures.items()}
            best = max(medians["pytorch eager"], medians["pytorch compile"])
            result["speed"][compute] = {
                "tokens_per_second": figures,
                "median": medians,
                "gently_over_best_pytorch": medians["gently"] / best,
            }
            say(f"{name} {compute}: {medians['gently'] / best:.2f} times PyTorch's best")
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="a text, such as tinyshakespeare.txt")
    arguments.add_argument("--case", action="append", choices=CASES, help="default: all")
    arguments.add_argument("--compute", action="append", choices=["f32", "bf16"], help="default: both")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=60, help="steps of a timed run")
    arguments.add_argument("--warmup", type=int, default=10, help="steps of a timed run that do not count")
    arguments.add_argument("--curve", type=int, default=100, help="steps whose losses are compared")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--python", default=sys.executable, help="a Python with torch")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    arguments.add_argument("--gently", type=Path, default=target / "release/gently")
    arguments.add_argument("--export", type=Path, default=target / "release/examples/peer_export")
    arguments.add_argument("--out", type=Path, default=ROOT / "benches/results")
    a = arguments.parse_args()
    a.compute = a.compute or ["f32", "bf16"]
    if a.rounds > 0 and a.steps <= a.warmup:
        sys.exit("--steps must be more than --warmup")
    a.data = a.data.resolve()

    about = machine()
    if a.rounds > 0 and about["load_before"] > 0.5:
        say(f"warning: the machine is busy (load {about['load_before']:.1f}); figures will be wrong")
    torch = call([a.python, "-c", "import torch; print(torch.__version__)"]).strip()
    commit = call(["git", "-C", ROOT, "rev-parse", "HEAD"]).strip()
    cases = [case(a, name) for name in (a.case or CASES)]
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(word).name if word.startswith("/") else word for word in sys.argv],
        "commit": commit,
        "machine": about,
        "threads": a.threads,
        "pytorch": torch,
        "steps": a.steps,
        "warmup": a.warmup,
        "cases": cases,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    path = a.out / f"train-{stamp}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
