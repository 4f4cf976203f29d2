#!/usr/bin/env bash
# Runs fuzz targets, one process at a time, until each has had its CPU time without a finding. What was done is noted, so that
# this can be stopped at any moment and called again.
#
#   fuzz/run.sh                    all targets
#   fuzz/run.sh gguf vocabulary    these, in this order
#   fuzz/run.sh --status           CPU seconds so far
#
# Environment: FUZZ_SECONDS  CPU seconds for each target (3600)
#              FUZZ_SLICE    seconds between notes (300)
#              FUZZ_WORK     inputs found, notes and reproducers (fuzz/target/work)
#              FUZZ_BUILT    programs that are built already, in this folder
#
# A finding (a panic, an allocation or a size in memory over the limits, an input that takes more than ten seconds, and as much of
# the processor when it runs again) ends it with status 1 and the reproducer's path; the target's time then begins anew.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seconds=${FUZZ_SECONDS:-3600}
slice=${FUZZ_SLICE:-300}
work=${FUZZ_WORK:-$here/target/work}
triple=$(rustc -vV | sed -n 's/^host: //p')
all=(gguf vocabulary tokenizer_json chat_template safetensors grammar gguf_model config_json folder task recipe shard state)

done_of() { cat "$work/$1.seconds" 2>/dev/null || echo 0; }

if [ "${1:-}" = --status ]; then
    for target in "${all[@]}"; do printf '%-16s %s of %s s\n' "$target" "$(done_of "$target")" "$seconds"; done
    exit 0
fi
[ $# -gt 0 ] && all=("$@")
mkdir -p "$work"

built=${FUZZ_BUILT:-}
if [ -z "$built" ]; then
    (cd "$here/.." && cargo +nightly fuzz build) || exit 2
    built=$here/target/$triple/release
fi

# No single allocation over 64 MiB for inputs of at most 64 KiB; compiled grammars and tokenizers, and the sanitizer's own
# memory, need room in all.
limits=(-malloc_limit_mb=64 -rss_limit_mb=2048 -timeout=10 -max_len=65536)
export ASAN_OPTIONS=${ASAN_OPTIONS:-quarantine_size_mb=64:allocator_may_return_null=0}

child=
stop() { [ -n "$child" ] && kill "$child" 2>/dev/null; exit 130; }
trap stop INT TERM

# CPU seconds of children so far, in hundredths.
spent() { awk '{ print $16 + $17 }' "/proc/$$/stat"; }

for target in "${all[@]}"; do
    inputs=$work/$target
    mkdir -p "$inputs"
    while [ "$(done_of "$target")" -lt "$seconds" ]; do
        before=$(spent)
        "$built/$target" "${limits[@]}" -max_total_time="$slice" -print_final_stats=1 -artifact_prefix="$work/$target-" \
            "$inputs" "$here/corpus/$target" >"$work/$target.log" 2>&1 &
        child=$!
        echo "$child" >"$work/pid"
        wait "$child"
        status=$?
        child=
        rm -f "$work/pid"
        used=$((($(spent) - before) / $(getconf CLK_TCK)))
        if [ "$status" != 0 ]; then
            found=$(sed -n 's/.*Test unit written to //p' "$work/$target.log" | tail -1)
            # The limit counts time on the wall, and a process that was halted, or whose machine was, looks slow: only what takes
            # as long of the processor when it runs again is.
            again=$(spent)
            if [[ $found == *-timeout-* ]] && "$built/$target" "${limits[@]}" -timeout=300 "$found" >/dev/null 2>&1 &&
                [ $((($(spent) - again) / $(getconf CLK_TCK))) -lt 10 ]; then
                rm -f "$found"
            else
                echo "$target: ended with status $status after $(done_of "$target") s: ${found:-no reproducer}; see $work/$target.log"
                echo 0 >"$work/$target.seconds"
                exit 1
            fi
        fi
        echo $(($(done_of "$target") + used)) >"$work/$target.seconds"
        echo "$target: $(done_of "$target") of $seconds s, $(sed -n 's/.*\(cov: [0-9]* ft: [0-9]* corp: [^ ]*\).*/\1/p' "$work/$target.log" | tail -1)"
    done
done
