#!/usr/bin/env bash
# Runs a preset end to end: data, teacher, filter, train, infer, critic, score, compare, report. A rerun skips what is
# finished. The first stage that fails ends the run and is named.
#
#   bash scripts/pipeline.sh                              configs/smollm2_cpu, a real small model on a CPU
#   bash scripts/pipeline.sh configs/qwen2_1.5b
#   bash scripts/pipeline.sh [PRESET] --limit 4           a quick try, in outputs/<preset>-limit4
#   bash scripts/pipeline.sh [PRESET] --from train        repeats this stage and all later ones
#   bash scripts/pipeline.sh [PRESET] --overwrite         starts over: the same as --from data
#   bash scripts/pipeline.sh [PRESET] --source DIR        raw data files instead of the hub
#   bash scripts/pipeline.sh [PRESET] --output_root DIR   instead of outputs
#   bash scripts/pipeline.sh [PRESET] --methods a,b|all   instead of the methods that the preset's train.yaml lists
#   bash scripts/pipeline.sh [PRESET] --seeds 1 2 3       trains and evaluates each method with each seed
#   NPROC=8 bash scripts/pipeline.sh PRESET               processes of each stage (default: one per GPU, or 1)
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"

STAGES=(data teacher filter train infer critic score compare report)
preset="" limit="" from="" source_dir="" output_root=outputs wanted=""
seeds=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --limit | --from | --source | --output_root | --methods)
      [[ $# -ge 2 ]] || usage "$1 needs a value"
      case "$1" in
        --limit) limit="$2" ;;
        --from) from="$2" ;;
        --source) source_dir="$2" ;;
        --output_root) output_root="$2" ;;
        --methods) wanted="$2" ;;
      esac
      shift 2
      ;;
    --overwrite)
      from="data"
      shift
      ;;
    --seeds)
      shift
      while [[ "${1:-}" =~ ^[0-9]+$ ]]; do
        seeds+=("$1")
        shift
      done
      [[ ${#seeds[@]} -gt 0 ]] || usage "--seeds needs whole numbers, as in --seeds 1 2 3"
      ;;
    -*) usage "unknown option $1; known are --limit N, --from STAGE, --overwrite, --source DIR, --output_root DIR," \
      "--methods LIST, --seeds N ..." ;;
    *)
      [[ -z "$preset" ]] || usage "one preset is expected, found $preset and $1"
      preset="${1%/}"
      shift
      ;;
  esac
done
preset="${preset:-configs/smollm2_cpu}"
[[ -f "$preset/data.yaml" ]] || fail "$preset: not a preset folder (no data.yaml); known are: $(dirname -- configs/*/data.yaml | xargs)"
[[ -z "$from" || " ${STAGES[*]} " == *" $from "* ]] || usage "--from $from: stages are ${STAGES[*]}"
[[ -z "$limit" || "$limit" =~ ^[1-9][0-9]*$ ]] || usage "--limit $limit: a whole number of at least 1 is expected"

bash scripts/setup.sh

read_preset() { python scripts/internal/preset.py "$preset" "$@"; }
listed="$(read_preset methods ${wanted:+--methods "$wanted"})"
mapfile -t methods <<<"$listed"

name="$(basename -- "$preset")"
run="$output_root/$name${limit:+-limit$limit}"
# A preset that was checked and not edited since is not checked again.
checked="$run/logs/preset-checked" words="$preset $wanted"
if [[ "$(cat "$checked" 2>/dev/null)" != "$words" || -n "$(find "$preset" -name '*.yaml' -newer "$checked" -print -quit)" ]]; then
  say "preset"
  python scripts/check_preset.py "$preset" --run "$run" ${wanted:+--methods "$wanted"}
  mkdir -p "$run/logs"
  printf '%s\n' "$words" >"$checked"
fi
limits=()
[[ -z "$limit" ]] || limits=(--limit "$limit")

# Names the stage whose command failed.
stage=setup
began=$SECONDS
name_the_stage() {
  local code=$?
  [[ $code -eq 0 ]] ||
    printf '\npipeline stopped in stage %s (exit code %s). The same command continues there; %s\n' \
      "$stage" "$code" "--from $stage repeats the stage, --output_root DIR uses another folder" >&2
}
trap name_the_stage EXIT

redo=()
enter() { # STAGE: announces it and decides whether it is repeated
  [[ "$stage" == setup ]] || printf '   (%s: %d s)\n' "$stage" $((SECONDS - began))
  stage="$1" began=$SECONDS
  [[ "$1" != "$from" ]] || redo=(--overwrite)
  say "$1"
}

gpus="$(count_gpus)"
ranks="${NPROC:-$((gpus > 1 ? gpus : 1))}"

# Stages 1 and 4. torchrun takes seconds to start, so it is used only for several ranks and only if there is work to do.
generate() { # SCRIPT ARGS...
  local status=0
  if [[ ${#redo[@]} -eq 0 ]]; then
    python "$@" --is_done || status=$?
    if [[ $status -eq 0 ]]; then
      echo "done already"
      return 0
    fi
    [[ $status -eq 4 ]] || return "$status"
  fi
  if [[ "$ranks" -gt 1 ]]; then
    with_tensors torchrun --standalone --nproc_per_node="$ranks" "$@" "${redo[@]}"
  else
    with_tensors python "$@" "${redo[@]}"
  fi
}

enter data
source_args=()
[[ -z "$source_dir" ]] || source_args=(--source "$source_dir")
python scripts/prepare_data.py --config "$preset/data.yaml" "${source_args[@]}" "${redo[@]}"
listed="$(read_preset test_sets)"
mapfile -t datasets <<<"$listed"

enter teacher
generate teacher_cot.py --config "$preset/teacher.yaml" --output_path "$run/teacher.jsonl" "${limits[@]}"

# Later rounds ask only for problems without a kept sample. The list of these problems is made once. If rules change
# afterwards, --from filter judges all samples again but asks for no more; --from teacher asks again.
samples=("$run/teacher.jsonl")
rounds="$(python scripts/internal/preset.py "$preset" rounds)"
found="$(python scripts/internal/preset.py "$preset" test_paths)"
unlike=() # training problems must not repeat a question of these files
[[ -z "$found" ]] || mapfile -t unlike < <(printf '%s\n' --test_paths "$found")
for ((round = 2; round <= rounds; round++)); do
  retry="$run/retry.round$round.jsonl"
  echo "-- round $round"
  stage=filter
  python filter_teacher_cot.py --config "$preset/filter.yaml" "${unlike[@]}" --only_retry --input_path "${samples[-1]}" \
    --output_path "$retry" "${redo[@]}"
  stage=teacher
  [[ -s "$retry" ]] || break
  generate teacher_cot.py --config "$preset/teacher.yaml" --round "$round" --input_path "$retry" \
    --output_path "$run/teacher.round$round.jsonl"
  samples+=("$run/teacher.round$round.jsonl")
done

enter filter
python filter_teacher_cot.py --config "$preset/filter.yaml" "${unlike[@]}" --input_path "${samples[@]}" \
  --output_path "$run/kept.jsonl" --dataset_dir "$run/datasets" "${redo[@]}"

enter train
shown="'loss'|'eval_loss'|rror|trained already|resuming|set aside|offline|accuracy on|arning: the|memory|: \\{\"steps\""
python scripts/check_training.py "$preset" --run "$run" --untrained --methods "$(IFS=, && echo "${methods[*]}")" \
  ${seeds[0]:+--seeds "${seeds[@]}"} "${redo[@]}"
variants=(baseline) # a method, or one of its seeds
for method in "${methods[@]}"; do
  for seed in "${seeds[@]:-}"; do
    variant="$method${seed:+.seed$seed}"
    variants+=("$variant")
    echo "-- $variant"
    LOG="$run/logs/train-$variant.log" bash scripts/train.sh "$preset/train/$method.yaml" --run "$run" \
      ${seed:+--seed "$seed"} "${redo[@]}" 2>&1 | { grep --line-buffered -E "$shown" || true; }
  done
done

enter infer
for dataset in "${datasets[@]}"; do
  for method in "${variants[@]}"; do
    echo "-- $method on $dataset"
    adapter=()
    [[ "$method" == baseline ]] || adapter=(--lora_path "$run/train/$method")
    generate infer_parallel.py --config "$preset/infer.yaml" --dataset "$dataset" "${adapter[@]}" \
      --output_path "$run/predictions/$dataset/$method.jsonl" "${limits[@]}"
  done
done

enter critic
for dataset in "${datasets[@]}"; do
  [[ -f "$preset/critic.yaml" ]] || {
    echo "no critic.yaml in $preset: nothing is rated"
    break
  }
  paths=("${variants[@]/#/$run/predictions/$dataset/}")
  status=0
  python scripts/critic.py --config "$preset/critic.yaml" --dataset "$dataset" --pred_path "${paths[@]/%/.jsonl}" \
    "${redo[@]}" || status=$?
  # 3: the judge gave too few ratings; the tables say so.
  [[ $status -eq 0 || $status -eq 3 ]] || exit "$status"
done

enter score
for dataset in "${datasets[@]}"; do
  for method in "${variants[@]}"; do
    python score.py --config "$preset/score.yaml" --dataset "$dataset" \
      --pred_path "$run/predictions/$dataset/$method.jsonl" "${redo[@]}"
  done
done

enter compare
python scripts/compare.py "$run"

enter report
python scripts/report.py "$run" "${redo[@]}"
