#!/usr/bin/env bash
# Every benchmark of speed on this machine, and the tables of docs/performance.md made from them.
#   benchmarks/all.sh [OUT=benchmarks/results] [REPEATS=3]
# OUT gets one JSON file and one log a benchmark, machine.txt and tables.md. Let nothing else run meanwhile (half an hour
# on two cores). Habitat is measured where it is installed. The GPU has benchmarks/gpu.sh.
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
repeats=${2:-3}
mkdir -p "$out"
failed=0
run() {  # NAME COMMAND...: its output goes to OUT/NAME.log
    local name=$1
    shift
    echo "== $name: $*"
    if ! "$@" >"$out/$name.log" 2>&1; then
        echo "   failed, see $out/$name.log"
        failed=1
    fi
}
{
    date -u +"measured %Y-%m-%d"
    git log -1 --format="commit %h" && git diff --quiet HEAD || echo "with uncommitted changes"
    grep -m1 "model name" /proc/cpuinfo
    echo "cores: $(nproc)"
} >"$out/machine.txt"
for what in sim policy update train; do
    run $what python -m llarp bench $what repeats="$repeats" out="$out/$what.json"
done
for rollout in long short; do
    for minibatches in 2 8; do
        name=update-$rollout-$minibatches
        run $name python benchmarks/reference_update.py rollout=$rollout minibatches=$minibatches \
            repeats="$repeats" out="$out/$name.json"
    done
done
for axis in worlds context backbone episodes; do
    run scaling-$axis python benchmarks/scaling.py axis=$axis repeats="$repeats" out="$out/scaling-$axis.json"
done
run sim-scaling python benchmarks/sim_scaling.py --out "$out/sim-scaling.json"
if python -c "import habitat_sim" 2>/dev/null; then
    run habitat-step python benchmarks/habitat_step.py
fi
python benchmarks/tables.py "$out" | tee "$out/tables.md"
exit $failed
