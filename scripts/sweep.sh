#!/usr/bin/env bash
# Trains one method with several learning rates, ranks and epochs (at most 12 trainings) and writes a Markdown table,
# sorted by held-out loss. It needs the training sets of a run: let the preset's pipeline finish its filter first.
#
#   bash scripts/sweep.sh configs/smollm2_cpu
#   RATES="3e-4 1e-3" RANKS=16 EPOCHS=1 bash scripts/sweep.sh configs/smollm2_cpu --run outputs/try --method distilled
#   bash scripts/sweep.sh configs/smollm2_cpu max_steps=20       key=value goes to every training
#
# All other settings are the preset's. Adapters are in <run>/sweep/<method>/, the table is <run>/sweep/<method>.md. A
# rerun trains only what is missing.
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"
[[ $# -ge 1 && -d "$1/train" ]] || usage "expected: scripts/sweep.sh PRESET [--run DIR] [--method NAME] [key=value ...]"

preset="${1%/}"
shift
run="outputs/$(basename -- "$preset")" method=strong_baseline
overrides=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --run | --method)
      [[ $# -ge 2 ]] || usage "$1 needs a value"
      if [[ "$1" == --run ]]; then run="$2"; else method="$2"; fi
      shift
      ;;
    -*) usage "unknown option $1; known are --run DIR, --method NAME" ;;
    *) overrides+=("$1") ;;
  esac
  shift
done
read -ra rates <<<"${RATES:-3e-4 1e-3 3e-3}"
read -ra ranks <<<"${RANKS:-16 64}"
read -ra epochs <<<"${EPOCHS:-1 2}"
number=$((${#rates[@]} * ${#ranks[@]} * ${#epochs[@]}))
[[ $number -ge 1 && $number -le 12 ]] || fail "$number runs; a sweep has at most 12: shorten RATES, RANKS or EPOCHS"

folder="$run/sweep/$method"
mkdir -p "$folder"
for rate in "${rates[@]}"; do
  for rank in "${ranks[@]}"; do
    for epoch in "${epochs[@]}"; do
      name="rate$rate-rank$rank-epochs$epoch"
      say "$name"
      LOG="$folder/$name.log" bash scripts/train.sh "$preset/train/$method.yaml" --run "$run" \
        "learning_rate=$rate" "lora_rank=$rank" "num_train_epochs=$epoch" "output_dir=$folder/$name" \
        report_to=none plot_loss=false "${overrides[@]}" 2>&1 | { grep -E "rror|trained already| trained in " || true; }
    done
  done
done
python scripts/internal/sweep_table.py "$folder"
