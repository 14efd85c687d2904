#!/usr/bin/env bash
# The baselines of docs/baselines.md with one budget: each clones one pass over the same demonstrations, then plays 100
# episodes of every split. Prints the table (OUT/table.md).
#
#   benchmarks/baselines.sh OUT [EPISODES] ["NAMES"] ["SEEDS"] ["RATES"]
#
# EPISODES (12000): demonstrations each learns from. NAMES: which of those below ("all"). SEEDS ("1"; "1 2 3"). What a run
# has finished is not done again, so a stopped one goes on. Demonstrations (OUT/demonstrations, OUT/blank for the policy
# that sees nothing, OUT/grid8 for the Perceiver) are collected once for all seeds.
# RATES ("4e-4 1.2e-3 3.6e-3"): tuning trials instead. Each learns with each rate and the first seed, then plays 200
# episodes of train_validation; prints how many it solved.
set -euo pipefail
out=${1:?benchmarks/baselines.sh OUT [EPISODES] [NAMES] [SEEDS] [RATES]}
episodes=${2:-12000}
names=${3:-all}
seeds=${4:-1}
rates=${5:-}
known="ours skill_names llarp lstm scratch lora perceiver blank"
[ "$names" = all ] && names=$known
mkdir -p "$out"

settings() { # what differs from habitat_configs/recipe_bc.yaml, by name; learning rates by trials (docs/baselines.md)
    local plain="policy.kind=llarp bc.word_dropout=0 bc.unknown_share=0 bc.described_share=0 policy.dropout=0"
    case $1 in
        ours) echo bc.lr=4e-4 ;;
        skill_names) echo policy.head=skill_names ;;
        llarp) echo "$plain bc.lr=3.6e-3" ;;
        lstm) echo "$plain policy.kind=lstm" ;;
        scratch) echo policy.llm_weights=random bc.lr=3e-4 ;;
        lora) echo policy.lora_rank=8 bc.lr=4e-4 ;;
        perceiver) echo "$plain policy.resampler=perceiver policy.vision_pool=grid8 policy.num_visual_tokens=4" ;;
        blank) echo policy.pictures=blank bc.lr=4e-4 ;;
        *) echo "unknown baseline $1; known: $known" >&2; return 2 ;;
    esac
}

learn() { # FOLDER RUN NAME SEED [key=value ...]
    local folder=$1 run=$2 name=$3 seed=$4 own demonstrations=demonstrations
    shift 4
    own=$(settings "$name")
    case $name in blank) demonstrations=blank ;; perceiver) demonstrations=grid8 ;; esac
    if [ -e "$folder/$run/checkpoints" ]; then
        python -m llarp train resume="$folder/$run"
    else
        # shellcheck disable=SC2086
        python -m llarp train config=recipe_bc output_dir="$folder" run_name="$run" seed="$seed" train.data_seed=1 \
            bc.demonstrations="$out/$demonstrations" bc.episodes="$episodes" bc.train_minutes=0 bc.epochs=1 \
            policy.head=mlp train.eval_episodes=0 train.session_minutes=0 $own "$@"
    fi
}

if [ -n "$rates" ]; then
    for name in $names; do
        for rate in $rates; do
            run=${name}_${rate}_$episodes
            result=$out/trials/$run.json
            if [ ! -e "$result" ]; then
                learn "$out/trials" "$run" "$name" "${seeds%% *}" bc.lr="$rate"
                python -m llarp eval checkpoint="$out/trials/$run" split=train_validation episodes=200 seed=77 \
                    policy.temperature=0.5 out="$result"
            fi
            echo "$run: $(python -c "import json, sys; print(json.load(open(sys.argv[1]))['total'])" "$result")"
        done
    done
    exit
fi

columns=()
for name in $names; do
    files=()
    for seed in $seeds; do
        run=${name}_$seed
        result=$out/$run.json
        files+=("$result")
        [ -e "$result" ] && continue
        learn "$out/runs" "$run" "$name" "$seed"
        python -m llarp eval checkpoint="$out/runs/$run" split=all episodes=100 seed=1234 policy.temperature=0.5 out="$result"
    done
    columns+=("$name=$(IFS=,; echo "${files[*]}")")
done
python "$(dirname "$0")/results_table.py" "${columns[@]}" | tee "$out/table.md"
