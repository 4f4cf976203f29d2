#!/usr/bin/env python3
"""Runs Gently and its peers in turn on the same model, weights, batches and settings, and writes what came out.

    run.py --data tinyshakespeare.txt [--case shakespeare-cpu] [--peer NAME] [--rounds 5] [--steps 60] [--python PYTHON]

Peers are PyTorch (eager, compile) and, where asked for, candle and burn, which compute in f32 whatever Gently does: they
have no bf16 on a CPU that trains. For each case and each compute (f32, bf16):
  - the losses of the first --curve steps, ours against PyTorch eager, candle and burn, those of them that are asked for:
    largest relative difference (not with dropout: two programs do not draw the same random numbers);
  - tokens per second: --rounds rounds, each a run of every program in turn; the first --warmup steps of a run do not
    count; a run's figure is its tokens over its seconds, a program's figure the median of its runs;
  - peak memory: the largest resident set of each program's process over its runs.
Everything, also each run's figure, goes into benches/results/train-DATE.json. Quote ratios from there.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from compare import HERE, KEEP, ROOT, about, arguments, call, save, say

# Peers in Rust: programs of their own projects beside this file.
RUST = ["candle", "burn"]


class Case(NamedTuple):
    """A recipe, what is changed in it, and how many steps a run is worth here unless the command line says."""

    recipe: str
    changes: list
    steps: int
    warmup: int
    curve: int


CASES = {
    "shakespeare-cpu": Case("shakespeare-cpu", [], 60, 10, 100),
    "baby-gpt-b16": Case("shakespeare-baby", ["train.batch=16", "model.dropout=0.0"], 6, 1, 100),
    # As nanoGPT ships it.
    "baby-gpt-b64": Case("shakespeare-baby", [], 3, 1, 0),
    # Characters in a vocabulary padded to GPT-2's: the work is the same whatever the tokens are.
    "gpt2-124m": Case(
        "gpt2-124m",
        ["train.batch=1", "train.accumulate=1", "tokenizer.kind=characters", "model.vocab=50304", "data.val_fraction=0.1"],
        3,
        1,
        3,
    ),
}
# PyTorch keeps its moments in f32 in both.
CASES["gpt2-124m-bf16-moments"] = CASES["gpt2-124m"]._replace(
    changes=CASES["gpt2-124m"].changes + ["optimizer.moments=bf16"]
)


def ours(a, recipe, changes, compute, steps, decay):
    """One run of `gently train`: losses and seconds of its steps, from metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [a.gently, "train", recipe, "--data", a.data, "--out", out, "--threads", a.threads]
        quiet = ["eval.every=0", "eval.at_start=false", "eval.batches=1", "sample.every=0", "checkpoint.every=0"]
        length = [f"train.steps={steps}", f"optimizer.decay_steps={decay}", f"train.compute={compute}"]
        for change in changes + quiet + length:
            command += ["--set", change]
        _, peak = call(command)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train_loss" in row]
    return {
        "losses": [row["train_loss"] for row in rows],
        "seconds": [row["seconds"]["total"] for row in rows],
        "tokens_per_step": rows[0]["tokens"],
        "peak_bytes": peak,
    }


def theirs(a, export, peer, compute, steps):
    """One run of train_peer.py, or of a peer in Rust."""
    if peer in RUST:
        command = [getattr(a, peer), "--export", export, "--steps", steps, "--threads", a.threads]
        out, peak = call(command, RAYON_NUM_THREADS=a.threads, **KEEP)
    else:
        command = [a.python, HERE / "train_peer.py", "--export", export, "--steps", steps, "--mode", peer]
        out, peak = call(command + ["--compute", compute, "--threads", a.threads])
    return json.loads(out) | {"peak_bytes": peak}


def named(peer, compute):
    """A peer as the report names it."""
    if peer in RUST:
        return peer if compute == "f32" else f"{peer} (f32)"
    return f"pytorch {peer}"


def speed(run, warmup):
    seconds = run["seconds"][warmup:]
    return run["tokens_per_step"] * len(seconds) / sum(seconds)


def case(a, name):
    this = CASES[name]
    recipe, changes = this.recipe, this.changes
    steps, warmup, curve = (
        given if given is not None else usual
        for given, usual in [(a.steps, this.steps), (a.warmup, this.warmup), (a.curve, this.curve)]
    )
    if a.rounds > 0 and steps <= warmup:
        sys.exit("--steps must be more than --warmup")
    result = {"case": name, "recipe": recipe, "changes": changes, "steps": steps, "warmup": warmup}
    result |= {"curve": {}, "speed": {}}
    # The schedule of the whole recipe, whatever part of it is run.
    decay = {"shakespeare-cpu": 2000, "shakespeare-baby": 5000, "gpt2-124m": 600000}[recipe]
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder)
        command = [a.export, recipe, a.data, export, max(curve, steps)]
        for change in changes + [f"optimizer.decay_steps={decay}"]:
            command.append(change)
        call(command)
        for compute in a.compute:
            against = [peer for peer in a.peer if peer in RUST and compute == "f32"]
            if {"eager", "compile"} & set(a.peer):
                against.append("eager")
            if curve > 0 and against:
                mine = ours(a, recipe, changes, compute, curve, decay)["losses"]
                losses, worst = {"gently": mine}, {}
                for peer in against:
                    of = theirs(a, export, peer, compute, curve)["losses"]
                    losses[named(peer, compute)] = of
                    difference = max(abs(x - y) / abs(y) for x, y in zip(mine, of, strict=True))
                    worst[named(peer, compute)] = difference
                    say(f"{name} {compute}: losses of {curve} steps differ from {peer}'s by at most {difference:.2e}")
                result["curve"][compute] = {"losses": losses, "largest_relative_difference": worst}
            if a.rounds == 0:
                continue
            programs = {"gently": lambda: ours(a, recipe, changes, compute, steps, decay)}
            for peer in a.peer:
                programs[named(peer, compute)] = lambda peer=peer: theirs(a, export, peer, compute, steps)
            figures = {program: [] for program in programs}
            peaks = {program: 0 for program in programs}
            for round_ in range(a.rounds):
                for program, run in programs.items():
                    done = run()
                    figures[program].append(speed(done, warmup))
                    peaks[program] = max(peaks[program], done["peak_bytes"])
                    say(f"{name} {compute} round {round_ + 1}: {program} {figures[program][-1]:.0f} tokens/s")
            medians = {program: statistics.median(values) for program, values in figures.items()}
            ratios = {peer: medians["gently"] / medians[peer] for peer in medians if peer != "gently"}
            result["speed"][compute] = {
                "tokens_per_second": figures,
                "median": medians,
                "gently_over": ratios,
                "peak_bytes": peaks,
            }
            say(f"{name} {compute}: gently {medians['gently']:.0f} tokens/s, {peaks['gently'] / 1e6:.0f} MB")
            for peer, ratio in ratios.items():
                say(f"{name} {compute}: {ratio:.2f} times {peer}, which takes {peaks[peer] / 1e6:.0f} MB")
    return result


def main():
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a text, such as tinyshakespeare.txt")
    parser.add_argument("--case", action="append", choices=CASES, help="default: all")
    parser.add_argument("--compute", action="append", choices=["f32", "bf16"], help="default: both")
    parser.add_argument("--peer", action="append", choices=["eager", "compile", *RUST], help="default: PyTorch's two")
    parser.add_argument("--steps", type=int, help="steps of a timed run (default: by case)")
    parser.add_argument("--warmup", type=int, help="steps of a timed run that do not count (default: by case)")
    parser.add_argument("--curve", type=int, help="steps whose losses are compared (default: by case)")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--export", type=Path, default=target / "release/examples/peer_export")
    for peer in RUST:
        program = target / "peers" / peer / "release/train"
        parser.add_argument(f"--{peer}", type=Path, default=program, help=f"the program of {peer}/")
    a = parser.parse_args()
    a.compute = a.compute or ["f32", "bf16"]
    a.peer = a.peer or ["eager", "compile"]
    a.data = a.data.resolve()

    report = about(a)
    if {"eager", "compile"} & set(a.peer):
        report["pytorch"] = call([a.python, "-c", "import torch; print(torch.__version__)"])[0].strip()
    report["cases"] = [case(a, name) for name in (a.case or CASES)]
    save(a, "train", report)


if __name__ == "__main__":
    main()
