# Sourced by all.sh and gpu.sh, which set $out and exit with $failed.
# shellcheck shell=bash disable=SC2034,SC2154
failed=0
run() {  # NAME COMMAND...: its output goes to OUT/NAME.log
    local name=$1
    shift
    echo "== $name: $*"
    if ! "$@" >"$out/$name.log" 2>&1; then
        echo "   failed, see $out/$name.log"
        failed=1
    fi
    grep -E "steps_per_s|achieved|where|memory" "$out/$name.log" || tail -n 3 "$out/$name.log"
}
