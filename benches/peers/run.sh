#!/usr/bin/env bash
# Builds Gently and the export program, makes a Python environment with PyTorch under target/, and compares the two.
# All arguments go to run.py; the text is needed:
#
#   benches/peers/run.sh --data tinyshakespeare.txt
#   benches/peers/run.sh --data tinyshakespeare.txt --peer candle --peer burn --case shakespeare-cpu --case baby-gpt-b16
#
# candle and burn, where they are asked for, are built for this processor; that takes a few minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --quiet --package gently
cargo build --release --quiet --package gently --example peer_export
for peer in candle burn; do
    case " $* " in *" $peer "*)
        RUSTFLAGS="-C target-cpu=native" cargo build --release --quiet --bin train --target-dir "$target/peers/$peer" \
            --manifest-path "benches/peers/$peer/Cargo.toml"
        ;;
    esac
done
python="${PEER_PYTHON:-$target/peers/venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$target/peers/venv"
    "$target/peers/venv/bin/pip" install --quiet --requirement benches/peers/requirements.txt
fi
exec "$python" benches/peers/run.py "$@"
