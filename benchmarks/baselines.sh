#!/usr/bin/env bash
# The baselines of docs/baselines.md with one budget: each clones one pass over the same demonstrations, then plays 100
# episodes of every split. Prints the table (OUT/table.md).
#
#   benchmarks/baselines.sh OUT [EPISODES] ["NAMES"] ["SEEDS"]
#
# EPISODES (12000): demonstrations each learns from. NAMES: which of those below ("all"). SEEDS ("1"; "1 2 3"). What a run
# has finished is not done again, so a stopped one goes on. Demonstrations (OUT/demonstrations, OUT/blank for the policy
# that sees nothing, OUT/grid8 for the Perceiver) are collected once for all seeds.
set -euo pipefail
out=${1:?benchmarks/baselines.sh OUT [EPISODES] [NAMES] [SEEDS]}
episodes=${2:-12000}
names=${3:-all}
seeds=${4:-1}
known="ours skill_names llarp lstm scratch lora perceiver blank"
[ "$names" = all ] && names=$known
mkdir -p "$out"

settings() { # what differs from ours, by name
    local plain="policy.kind=llarp bc.word_dropout=0 bc.unknown_share=0 bc.described_share=0 policy.dropout=0"
    case $1 in
        ours) echo ;;
        skill_names) echo policy.head=skill_names ;;
        llarp) echo "$plain" ;;
        lstm) echo "$plain policy.kind=lstm" ;;
        scratch) echo policy.llm_weights=random bc.lr=3e-4 ;;
        lora) echo policy.lora_rank=8 ;;
        perceiver) echo "$plain policy.resampler=perceiver policy.vision_pool=grid8 policy.num_visual_tokens=4" ;;
        blank) echo policy.pictures=blank ;;
        *) echo "unknown baseline $1; known: $known" >&2; return 2 ;;
    esac
}

columns=()
for name in $names; do
    own=$(settings "$name")
    folder=demonstrations
    case $name in blank) folder=blank ;; perceiver) folder=grid8 ;; esac
    files=()
    for seed in $seeds; do
        run=$out/runs/${name}_$seed
        result=$out/${name}_$seed.json
        files+=("$result")
        [ -e "$result" ] && continue
        if [ -e "$run/checkpoints" ]; then
            python -m llarp train resume="$run"
        else
            # shellcheck disable=SC2086
            python -m llarp train config=recipe_bc output_dir="$out/runs" run_name="${name}_$seed" seed="$seed" \
                train.data_seed=1 bc.demonstrations="$out/$folder" bc.episodes="$episodes" bc.train_minutes=0 \
                bc.epochs=1 policy.head=mlp train.eval_episodes=0 train.session_minutes=0 $own
        fi
        python -m llarp eval checkpoint="$run" split=all episodes=100 seed=1234 policy.temperature=0.5 out="$result"
    done
    columns+=("$name=$(IFS=,; echo "${files[*]}")")
done
python "$(dirname "$0")/results_table.py" "${columns[@]}" | tee "$out/table.md"
