#!/usr/bin/env bash
# Builds Gently, makes a Python environment with sentence-transformers and ONNX Runtime under target/, and compares
# embeddings. All arguments go to embed.py; the model and the texts are needed:
#
#   scripts/fetch-assets.sh
#   benches/peers/embed.sh --model target/assets/minilm --data documents.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --quiet --package gently
python="${PEER_PYTHON:-$target/peers/venv/bin/python}"
if [ ! -x "$python" ]; then python3 -m venv "$target/peers/venv"; fi
if ! "$python" -c "import numpy, onnx, onnxruntime, sentence_transformers" 2> /dev/null; then
    "$python" -m pip install --quiet --requirement benches/peers/requirements.txt \
        --requirement benches/peers/embed-requirements.txt
fi
exec "$python" benches/peers/embed.py "$@"
