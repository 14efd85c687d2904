#!/usr/bin/env bash
# Does Habitat do what the original did, and what the embedded simulator does? All tables, and what was asked and seen.
#
#     benchmarks/habitat_parity.sh SHARED [NAME=VALUE ...]
#
# SHARED holds language_rearrangement/*.pickle (published episode files), replica_cad/ (the scenes), traces/ (recorded
# sequences of the original, traces_NAME.jsonl.gz) and tools/parity.py. What follows goes to `llarp replay` in Habitat
# where no parity.py is between (robot=FOLDER; for all of it, let LLARP_DATA name a folder with robots/). Runs where
# Habitat is installed, about 2 minutes a line on 2 cores. Exit code 1 if a line says "no".
set -uo pipefail
shared=${1:?the folder with language_rearrangement, replica_cad, traces and tools}
shift
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scenes=$shared/replica_cad
table=$work/table
failed=0

# row WHAT BAR SEEN YES_OR_NO
row() {
    printf '%-48s %-12s %-60s %s\n' "$1" "$2" "$3" "$4" >>"$table"
    [ "$4" = no ] && failed=1
}

# against EMBEDDED_LABEL ACTIONS HABITAT_ARGUMENTS... : both simulators, nothing told to them but the actions
against() {
    local label=$1 actions=$2 good=no
    shift 2
    local common=("actions=$actions" "$@")
    if llarp replay "${common[@]}" out="$work/embedded.jsonl" >"$work/log" 2>&1 &&
        llarp replay "${common[@]}" "${habitat[@]}" out="$work/habitat.jsonl" >"$work/log" 2>&1; then
        python "$here/compare_replays.py" "$work/embedded.jsonl" "$work/habitat.jsonl" --bar 0.97 --list >"$work/log" &&
            good=yes
    fi
    echo "$label: embedded and Habitat, own starts, places and ways"
    cat "$work/log"
    seen=$(awk 'NR == 2 { print "all " $6 ", valid " $7 ", pose " $8 ", whole " $9 " of " $2 " steps" }' "$work/log")
    row "$label: embedded and Habitat" "97 %" "${seen:-$(tail -1 "$work/log")}" $good
}

habitat=(backend=habitat "$@")
for file in "$shared"/language_rearrangement/*.pickle; do
    name=$(basename "$file" .pickle)
    traces=$shared/traces/traces_$name.jsonl.gz
    [ -f "$traces" ] || continue
    for mode in navigation semantics; do
        good=no
        python "$shared/tools/parity.py" --traces "$shared/traces" --scenes "$scenes" --backend habitat --mode $mode \
            --bar-all 0.99 "$name=$file" >"$work/log" 2>&1 && good=yes
        echo "$name: the original's recordings and Habitat, $mode"
        cat "$work/log"
        seen=$(awk '$2 == "every" { print "all " $8 ", valid " $10 ", nav " $11 ", whole " $12 " of " $4 " steps" }' \
            "$work/log")
        row "$name: recorded and Habitat, $mode" "99 %" "${seen:-$(tail -1 "$work/log")}" $good
    done
    zcat "$traces" | python -c 'import json, sys
for line in sys.stdin:
    print(json.dumps({key: value for key, value in json.loads(line).items() if key in ("episode_id", "actions")}))' \
        >"$work/actions.jsonl"
    against "$name" "$work/actions.jsonl" dataset="$file" scenes="$scenes"
done

# built-in episodes, by the actions of the last file's sequences
if [ -s "$work/actions.jsonl" ]; then
    python -c 'import json, sys
for i, line in enumerate(sys.stdin):
    if i < 100:
        print(json.dumps({"episode_id": i, "actions": json.loads(line)["actions"]}))' \
        <"$work/actions.jsonl" >"$work/built_in.jsonl"
    against "built-in new_scenes" "$work/built_in.jsonl" env.split=new_scenes
fi

echo
cat "$table"
[ -s "$table" ] || { echo "nothing was compared: is $shared the folder?" >&2; exit 2; }
exit $failed
