#!/usr/bin/env bash
# Builds Gently, and llama.cpp natively from the source that its Python package carries, makes files of each type from
# one published file, and compares the two. All arguments go to infer.py:
#
#   scripts/fetch-assets.sh && benches/peers/infer.sh
#
# PEER_CANDLE=1 takes candle's quantized Llama along.
# It needs a C++ compiler and takes about ten minutes the first time. PEER_LLAMA names a folder with llama-bench,
# llama-batched-bench and llama-quantize that are there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
version="0.3.36"
cargo build --release --quiet --package gently
llama="${PEER_LLAMA:-$target/peers/llama/build/bin}"
if [ ! -x "$llama/llama-bench" ]; then
    mkdir -p "$target/peers/llama"
    if [ ! -x "$target/peers/venv/bin/python" ]; then python3 -m venv "$target/peers/venv"; fi
    bin="$(cd "$target/peers/venv/bin" && pwd)"
    PATH="$bin:$PATH"
    pip install --quiet cmake ninja scikit-build-core
    pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest "$target/peers/llama" \
        "llama-cpp-python==$version"
    tar xf "$target/peers/llama/llama_cpp_python-$version.tar.gz" -C "$target/peers/llama"
    cmake -G Ninja -S "$target/peers/llama/llama_cpp_python-$version/vendor/llama.cpp" -B "$target/peers/llama/build" \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
    ninja -C "$target/peers/llama/build" llama-bench llama-batched-bench llama-quantize
fi
model="${PEER_MODEL:-target/assets/SmolLM2-135M-Instruct.Q4_1.gguf}"
candle=()
if [ -n "${PEER_CANDLE:-}" ]; then
    RUSTFLAGS="-C target-cpu=native" cargo build --release --quiet --bin infer --features infer \
        --target-dir "$target/peers/candle" --manifest-path benches/peers/candle/Cargo.toml
    candle=(--candle "$target/peers/candle/release/infer")
fi
exec python3 benches/peers/infer.py --gently "$target/release/gently" --llama "$llama" --model "$model" "${candle[@]}" "$@"
