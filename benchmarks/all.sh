#!/usr/bin/env bash
# Every benchmark of speed on this machine, and the tables of docs/performance.md made from them.
#   benchmarks/all.sh [OUT=benchmarks/results] [REPEATS=3]
# OUT gets one JSON file and one log a benchmark, machine.txt and tables.md. Let nothing else run meanwhile (half an hour
# on two cores). Habitat is measured where it is installed and LLARP_SHARED names its data. The GPU has benchmarks/gpu.sh.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-benchmarks/results}
repeats=${2:-3}
[[ $repeats =~ ^[1-9][0-9]*$ ]] || { echo "REPEATS=$repeats: must be a whole number, at least 1" >&2; exit 2; }
mkdir -p "$out" || exit 2
# shellcheck source-path=SCRIPTDIR source=run.sh
. benchmarks/run.sh
{
    date -u +"measured %Y-%m-%d"
    git log -1 --format="commit %h" && git diff --quiet HEAD || echo "with uncommitted changes"
    grep -m1 "model name" /proc/cpuinfo
    echo "cores: $(nproc)"
} >"$out/machine.txt"
for what in sim policy update train; do
    run $what python -m llarp bench $what repeats="$repeats" out="$out/$what.json"
done
run update-preset python benchmarks/reference_update.py ablations=false repeats="$repeats" out="$out/update-preset.json"
for rollout in natural long short; do
    run update-$rollout python benchmarks/reference_update.py rollout=$rollout steps=32 minibatches=2 repeats="$repeats" \
        out="$out/update-$rollout.json"
done
run update-long-8 python benchmarks/reference_update.py rollout=long steps=32 minibatches=8 ablations=false \
    repeats="$repeats" out="$out/update-long-8.json"
for axis in worlds context backbone episodes; do
    run scaling-$axis python benchmarks/scaling.py axis=$axis repeats="$repeats" out="$out/scaling-$axis.json"
done
run sim-scaling python benchmarks/sim_scaling.py --out "$out/sim-scaling.json"
shared=${LLARP_SHARED:-}
if [ -n "$shared" ] && python -c "import habitat_sim" 2>/dev/null; then
    files=("$shared/language_rearrangement/new_scenes.pickle" "$shared/replica_cad")
    run habitat-step python benchmarks/habitat_step.py "${files[@]}"
    run habitat-workers python benchmarks/habitat_workers.py "${files[@]}"
fi
python benchmarks/tables.py "$out" | tee "$out/tables.md"
exit $failed
