"""What every comparison here does alike: run programs and their peers, know the machine, write the report."""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# For peers in Rust: their allocator keeps what it has had. With its default a quarter of their time goes into fresh pages.
KEEP = {"MIMALLOC_PURGE_DELAY": -1}


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(command, **variables):
    """Runs a program; its output and its peak resident memory in bytes. `variables` go into its environment."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        env = os.environ | {name: str(value) for name, value in variables.items()}
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=env)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nfailed with {child.returncode}:\n{err.read()[-4000:]}")
        return out.read(), used.ru_maxrss * 1024


def arguments(doc):
    """The arguments that all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gently", type=Path, default=target / "release/gently")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results")
    return parser


def about(a):
    """What a report says of when, where and how it was made; warns of a machine that is not quiet."""
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    load = os.getloadavg()[0]
    if a.rounds > 0 and load > 0.5:
        say(f"warning: the machine is busy (load {load:.1f}); figures will be wrong")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(word).name if word.startswith("/") else word for word in sys.argv],
        "commit": call(["git", "-C", ROOT, "rev-parse", "HEAD"])[0].strip(),
        "machine": {
            "processor": names[0] if names else platform.processor(),
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "load_before": load,
        },
        "threads": a.threads,
    }


def save(a, kind, report):
    """Writes `KIND-DATE.json` and prints its path."""
    a.out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    path = a.out / f"{kind}-{stamp}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)
