#!/usr/bin/env bash
# Builds Gently, makes a Python environment with PyTorch and transformers under target/, and compares embeddings. All arguments
# go to embed.py; the model and the texts are needed:
#
#   scripts/fetch-assets.sh
#   benches/peers/embed.sh --model target/assets/minilm --data documents.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --quiet --package gently
python="${PEER_PYTHON:-$target/peers/venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$target/peers/venv"
    "$target/peers/venv/bin/pip" install --quiet --requirement benches/peers/requirements.txt
fi
exec "$python" benches/peers/embed.py "$@"
