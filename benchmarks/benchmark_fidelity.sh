#!/usr/bin/env bash
# Is the benchmark complete and faithful? One table of what was asked and what was seen.
#
#     benchmarks/benchmark_fidelity.sh SHARED [TRAIN_EPISODES [RUN]]
#
# SHARED holds language_rearrangement/*.pickle (published episode files), replica_cad/ (the scenes), traces/ (recorded
# sequences of the original, traces_NAME.jsonl.gz) and tools/parity.py. TRAIN_EPISODES (default 150000) is the size of
# the training set that is made and validated. RUN is the folder of a training run: what it was shown is held against the
# test splits. Exit code 1 if a line says "no".
set -uo pipefail
shared=${1:?the folder with language_rearrangement, replica_cad, traces and tools}
train=${2:-150000}
run=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scenes=$shared/replica_cad
files=("$shared"/language_rearrangement/*.pickle)
table=$work/table
failed=0

# row WHAT BAR SEEN YES_OR_NO
row() {
    printf '%-58s %-24s %-46s %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
    [ "$4" = no ] && failed=1
}

# timed COMMAND...: its output goes to $work/log, its seconds to $seconds
timed() {
    local begin=$EPOCHREALTIME code=0
    "$@" >"$work/log" 2>&1 || code=$?
    seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    return $code
}

# value FILE EXPRESSION: a Python expression over the JSON object d
value() { python -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }

below() { awk -v a="$1" -v b="$2" 'BEGIN { print (a < b) ? "yes" : "no" }'; }

echo "$(nproc) cores, $(date -u +%F)"

# -- published files: loading, parity, oracle ---------------------------------------------------------------------------
for file in "${files[@]}"; do
    name=$(basename "$file" .pickle)
    load="from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
config = EnvConfig(dataset='$file', scenes='$scenes')
import time
begin = time.perf_counter()
load_episodes(config, 1), load_assets_for(config)
print(time.perf_counter() - begin)"
    first=$(LLARP_CACHE=$work/cache_$name python -c "$load" | tail -1)
    again=$(LLARP_CACHE=$work/cache_$name python -c "$load" | tail -1)
    row "$name: file and scenes load, first time" "under 20 s" "$(printf '%.1f s' "$first")" "$(below "$first" 20)"
    row "$name: the same from the cache" "under 3 s" "$(printf '%.1f s' "$again")" "$(below "$again" 3)"

    [ -f "$shared/traces/traces_$name.jsonl.gz" ] || continue
    for mode in semantics navigation; do
        if [ $mode = semantics ]; then bars=(--bar-all 0.995 --bar-valid 0.99)
        else bars=(--bar-all 0.97 --bar-change 0.95 --bar-nav 0.97); fi
        good=no
        timed python "$shared/tools/parity.py" --traces "$shared/traces" --scenes "$scenes" --mode $mode "${bars[@]}" \
            "$name=$file" && good=yes
        seen=$(awk '$2 == "every" { print "all " $8 ", change " $9 ", valid " $10 ", nav " $11 }' "$work/log")
        row "$name: parity, $mode" "${bars[*]//--bar-/}" "${seen:-$(tail -1 "$work/log")}" $good
    done
done
good=no
timed python "$here/oracle_published.py" scenes="$scenes" "${files[@]}" bar=0.95 && good=yes
cat "$work/log"
row "oracle on published files, failures searched" "95 %, rest infeasible" "$seconds s" $good

# -- built-in splits ----------------------------------------------------------------------------------------------------
good=no
timed llarp data generate split=train episodes="$train" dataset="$work/train.safetensors" out="$work/train.json" && good=yes
cat "$work/log"
making=$seconds
timed llarp data validate dataset="$work/train.safetensors" render=1000 out="$work/valid.json" || good=no
size=$(awk -v b="$(stat -c %s "$work/train.safetensors")" 'BEGIN { printf "%.0f", b / 1e6 }')
total=$(awk -v a="$making" -v b="$seconds" 'BEGIN { printf "%.0f", a + b }')
row "$train training episodes made" "" "$making s" $good
row "the same validated, 1,000 of them rendered" "" "$seconds s, solvable $(value "$work/valid.json" "d['solvable']")" $good
row "both together" "under 1800 s" "$total s" "$(below "$total" 1800)"
row "their file" "under 300 MB" "$size MB" "$(below "$size" 300)"

good=no
timed llarp eval policy=oracle split=all episodes=100 out="$work/oracle.json" && good=yes
for name in $(value "$work/oracle.json" "' '.join(d['splits'])"); do
    rate=$(value "$work/oracle.json" "d['splits']['$name']['success_rate']")
    [ "$rate" = 1.0 ] && ok=$good || ok=no
    row "oracle on $name" "100 %" "$(awk -v r="$rate" 'BEGIN { printf "%.1f %% of 100", 100 * r }')" "$ok"
done
good=no
timed python "$here/split_hardness.py" published="$shared/language_rearrangement" scenes="$scenes" && good=yes
cat "$work/log"
row "built-in splits as hard as the published" "see split_hardness.py" "$seconds s" $good

if [ -n "$run" ]; then
    good=no
    timed llarp data check manifest="$run" && good=yes
    cat "$work/log"
    row "test splits disjoint from the training of $(basename "$run")" "no leak" "$(tail -1 "$work/log" | cut -c1-46)" $good
fi

echo
cat "$table"
exit $failed
