#!/usr/bin/env bash
# What is to be measured on one NVIDIA GPU (an H200 in the first place); runs as it stands, writes OUT/*.json.
#   benchmarks/gpu.sh [OUT=benchmarks/results-gpu]
# Simulator with 1,024 and more worlds; training with SmolLM2-135M; training and decoding with a Llama of 7B shape whose
# weights are random (made here from its config: what it costs is what a trained one costs, what it learns is nothing);
# the loop without host synchronisation. A part that fails does not stop the others; the exit code says whether any did.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-benchmarks/results-gpu}
mkdir -p "$out" || exit 2
# shellcheck source-path=SCRIPTDIR source=run.sh
. benchmarks/run.sh
{
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
    git log -1 --format="commit %H"
    python --version
    python -m pip list 2>/dev/null | grep -i -E "^(torch|transformers|timm|mujoco|warp)"
} >"$out/machine.txt"
cat "$out/machine.txt"

for worlds in 1024 2048 4096; do
    run "sim-$worlds" python -m llarp bench sim device=cuda env.num_envs=$worlds out="$out/sim-$worlds.json"
done
for worlds in 256 1024; do
    run "policy-$worlds" python -m llarp bench policy device=cuda env.num_envs=$worlds out="$out/policy-$worlds.json"
    run "train-$worlds" python -m llarp bench train device=cuda env.num_envs=$worlds ppo.micro_batch_tokens=16384 \
        out="$out/train-$worlds.json"
done
for rollout in natural long short; do
    run "update-$rollout" python benchmarks/reference_update.py device=cuda worlds=256 rollout=$rollout steps=32 minibatches=8 \
        out="$out/update-$rollout.json"
done

seven=$out/llama-7b-random
[ -f "$seven/config.json" ] || run make-7b python benchmarks/make_backbone.py "$seven" shape=llama-7b device=cuda
for worlds in 128 256; do
    run "policy-7b-$worlds" python -m llarp bench policy device=cuda policy.llm="$seven" env.num_envs=$worlds \
        policy.instruction_cache_mb=20000 out="$out/policy-7b-$worlds.json"
    run "train-7b-$worlds" python -m llarp bench train device=cuda policy.llm="$seven" env.num_envs=$worlds \
        policy.instruction_cache_mb=20000 ppo.micro_batch_tokens=4096 repeats=2 out="$out/train-7b-$worlds.json"
done

run no-sync python benchmarks/no_sync.py env.num_envs=256
run tests python -m pytest -q -m gpu
rm -rf "$seven"
exit $failed
