#!/usr/bin/env bash
# Builds Gently and the export program, makes a Python environment with PyTorch under target/, and compares the two.
# All arguments go to run.py; the text is needed:
#
#   benches/peers/run.sh --data tinyshakespeare.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --quiet --package gently
cargo build --release --quiet --package gently --example peer_export
python="${PEER_PYTHON:-$target/peers/venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$target/peers/venv"
    "$target/peers/venv/bin/pip" install --quiet --requirement benches/peers/requirements.txt
fi
exec "$python" benches/peers/run.py "$@"
