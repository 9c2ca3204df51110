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
#   bash scripts/pipeline.sh [PRESET] --fast              in bfloat16, on a CPU that multiplies it; in outputs/<preset>-fast
#   NPROC=8 bash scripts/pipeline.sh PRESET               processes of each stage (default: one per GPU, or 1)
#
# What a stage prints is also kept in <run>/logs/<stage>.log, and all that a training prints in logs/train-<method>.log.
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"

STAGES=(data teacher filter train infer critic score compare report)
preset="" limit="" from="" source_dir="" output_root=outputs wanted="" fast=""
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
    --fast)
      fast=1
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
      "--methods LIST, --seeds N ..., --fast" ;;
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

find_gpus
gpus="$COTKIT_GPUS"
multiplies_bfloat16() { python -c 'import sys; from cotkit.core import machine; sys.exit(not machine.multiplies_bfloat16())'; }
precision=() training=()
if [[ -n "$fast" ]]; then
  [[ "$gpus" -eq 0 ]] || fail "--fast is for CPUs: on a GPU, texts are made in the model's own type; remove --fast"
  multiplies_bfloat16 || fail "--fast: this CPU has no units for bfloat16, which would be slower than float32; remove --fast"
  precision=(--dtype bfloat16) training=(bf16=true use_cpu=true)
elif [[ "$gpus" -eq 0 ]] && multiplies_bfloat16; then
  echo "This CPU multiplies bfloat16: --fast is faster, with other texts (docs/GENERATION.md, Numbers)."
fi

if grep -qsE '^[^#]*\bbackend: *vllm' -- "$preset"/*.yaml && [[ ! -x .venv-vllm/bin/python ]] &&
  ! python -c 'import sys, importlib.util as util; sys.exit(util.find_spec("vllm") is None)'; then
  fail "$preset: a stage has \`backend: vllm\`, which needs an environment of its own; bash scripts/setup.sh --vllm makes it"
fi

read_preset() { python scripts/internal/preset.py "$preset" "$@"; }
listed="$(read_preset methods ${wanted:+--methods "$wanted"})"
mapfile -t methods <<<"$listed"
tutor="$(read_preset teacher)"

name="$(basename -- "$preset")"
run="$output_root/$name${fast:+-fast}${limit:+-limit$limit}"
# A preset that was checked and not edited since is not checked again.
checked="$run/logs/preset-checked" words="$preset $wanted"
if [[ "$(cat "$checked" 2>/dev/null)" != "$words" || -n "$(find "$preset" -name '*.yaml' -newer "$checked" -print -quit)" ]]; then
  echo "checking $preset"
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
  export COTKIT_PIPELINE="$stage" # remedies then name --from, and no stage repeats the note on --fast
  [[ "$1" != "$from" ]] || redo=(--overwrite)
  local number kept="; log: $run/logs/$1.log"
  [[ "$1" != compare ]] || kept="" # comparison.md is what it prints
  number=$(printf '%s\n' "${STAGES[@]}" | grep -nx -- "$1" | cut -d: -f1)
  say "$1: stage $number of ${#STAGES[@]}$kept"
}

# Runs a command of the stage. What it prints is shown, and kept in the stage's log unless it only found its work done.
# A caller that knows that there is work sets has_work.
logged() {
  local file="$run/logs/$stage.log" status=0
  # Two tees keep stdout and stderr apart. They ignore Ctrl-C, so that the command's last words arrive.
  { { "$@" 2>&1 1>&3 3>&- | tee -ia -- "$file.part" >&2 3>&-; } 3>&1 | tee -ia -- "$file.part"; } || status=$?
  if [[ $status -ne 0 || -n "${has_work:-}" ]] || ! grep -qE '(done|trained) already' -- "$file.part"; then cat -- "$file.part" >>"$file"; fi
  rm -f -- "$file.part"
  return "$status"
}

ranks="${NPROC:-$((gpus > 1 ? gpus : 1))}"

# Stages 1 and 4. torchrun takes seconds to start, so it is used only for several ranks and only if there is work to do.
generate() { # SCRIPT ARGS...
  local status=0 has_work=1
  set -- "$@" "${precision[@]}"
  if [[ ${#redo[@]} -eq 0 ]]; then
    python "$@" --is_done || status=$?
    if [[ $status -eq 0 ]]; then
      echo "done already"
      return 0
    fi
    [[ $status -eq 4 ]] || return "$status"
  fi
  if [[ "$ranks" -gt 1 ]]; then
    logged with_tensors torchrun --standalone --nproc_per_node="$ranks" "$@" "${redo[@]}"
  else
    logged with_tensors python "$@" "${redo[@]}"
  fi
}

enter data
source_args=()
[[ -z "$source_dir" ]] || source_args=(--source "$source_dir")
logged python scripts/prepare_data.py --config "$preset/data.yaml" "${source_args[@]}" "${redo[@]}"
listed="$(read_preset test_sets)"
mapfile -t datasets <<<"$listed"

# Trains $method, of $seed if that is set, and adds it to the variants.
train_variant() {
  local variant="$method${seed:+.seed$seed}"
  local training_log="$run/logs/train-$variant.log"
  variants+=("$variant")
  echo "-- $variant; all that the training prints: $training_log"
  logged train_and_show
}
train_and_show() {
  # Unbuffered: a loss is shown when it is printed.
  PYTHONUNBUFFERED=1 LOG="$training_log" bash scripts/train.sh "$preset/train/$method.yaml" --run "$run" \
    ${seed:+--seed "$seed"} "${redo[@]}" "${training[@]}" 2>&1 | python scripts/internal/train_lines.py
}
variants=(baseline) # a method, or one of its seeds

enter teacher
if [[ -n "$tutor" ]]; then # a method is the teacher: one training for all seeds, which --from teacher keeps
  redo_teacher=("${redo[@]}") method="$tutor" seed=""
  [[ "$from" == data ]] || redo=()
  export COTKIT_PIPELINE=data # what trains it anew, for remedies
  logged python scripts/gold_set.py "$preset/train/$tutor.yaml" --run "$run" "${limits[@]}" "${redo[@]}"
  logged python scripts/check_training.py "$preset" "${training[@]}" --run "$run" --untrained --methods "$tutor" "${redo[@]}"
  train_variant
  redo=("${redo_teacher[@]}") COTKIT_PIPELINE=teacher
fi
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
  logged python filter_teacher_cot.py --config "$preset/filter.yaml" "${unlike[@]}" --only_retry --input_path "${samples[-1]}" \
    --output_path "$retry" "${redo[@]}"
  stage=teacher
  [[ -s "$retry" ]] || break
  generate teacher_cot.py --config "$preset/teacher.yaml" --round "$round" --input_path "$retry" \
    --output_path "$run/teacher.round$round.jsonl"
  samples+=("$run/teacher.round$round.jsonl")
done

# A method may have questions of its own, without answers. The teacher solves them, and its samples vote on the answers.
listed="$(read_preset questions ${wanted:+--methods "$wanted"})"
voters=()
[[ -z "$listed" ]] || mapfile -t voters <<<"$listed"
for voter in "${voters[@]}"; do
  IFS=$'\t' read -r method dataset path questions votes <<<"$voter"
  [[ -z "$limit" ]] || questions="$limit"
  options=()
  [[ "$questions" == - ]] || options+=(--limit "$questions")
  [[ "$votes" == - ]] || options+=(--num_samples "$votes")
  echo "-- questions of $method"
  generate teacher_cot.py --config "$preset/teacher.yaml" --input_path "$path" "${options[@]}" \
    --output_path "$run/teacher.$method.jsonl"
done

enter filter
logged python filter_teacher_cot.py --config "$preset/filter.yaml" "${unlike[@]}" --input_path "${samples[@]}" \
  --output_path "$run/kept.jsonl" --dataset_dir "$run/datasets" "${redo[@]}"
for voter in "${voters[@]}"; do
  IFS=$'\t' read -r method dataset path questions votes <<<"$voter"
  echo "-- questions of $method"
  logged python scripts/vote.py --input_path "$run/teacher.$method.jsonl" --output_path "$run/voted.$method.jsonl" "${redo[@]}"
  logged python filter_teacher_cot.py --config "$preset/filter.yaml" "${unlike[@]}" --input_path "$run/voted.$method.jsonl" \
    --problems_path "$path" --sets "$dataset = kept" --output_path "$run/kept.$method.jsonl" \
    --dataset_dir "$run/datasets/$method" "${redo[@]}"
done

# What no row fits is known now.
listed="$(read_preset methods --run "$run" ${wanted:+--methods "$wanted"})"
mapfile -t methods <<<"$listed"

enter train
logged python scripts/check_training.py "$preset" "${training[@]}" --run "$run" --untrained \
  --methods "$(IFS=, && echo "${methods[*]}")" ${seeds[0]:+--seeds "${seeds[@]}"} "${redo[@]}"
for method in "${methods[@]}"; do
  [[ "$method" != "$tutor" ]] || continue
  for seed in "${seeds[@]:-}"; do train_variant; done
done

enter infer
jobs=() # one process makes all outputs; a method's model is loaded once for all data sets
for method in "${variants[@]}"; do
  for dataset in "${datasets[@]}"; do
    jobs+=(--job "$dataset" "$run/predictions/$dataset/$method.jsonl")
    [[ "$method" == baseline ]] || jobs+=("$run/train/$method")
  done
done
generate infer_parallel.py --config "$preset/infer.yaml" "${limits[@]}" "${jobs[@]}"

enter critic
for dataset in "${datasets[@]}"; do
  [[ -f "$preset/critic.yaml" ]] || {
    echo "no critic.yaml in $preset: nothing is rated"
    break
  }
  paths=("${variants[@]/#/$run/predictions/$dataset/}")
  status=0
  logged python scripts/critic.py --config "$preset/critic.yaml" --dataset "$dataset" "${precision[@]}" \
    --pred_path "${paths[@]/%/.jsonl}" "${redo[@]}" || status=$?
  # 3: the judge gave too few ratings; the tables say so.
  [[ $status -eq 0 || $status -eq 3 ]] || exit "$status"
done

enter score
for dataset in "${datasets[@]}"; do
  for method in "${variants[@]}"; do
    logged python score.py --config "$preset/score.yaml" --dataset "$dataset" \
      --pred_path "$run/predictions/$dataset/$method.jsonl" "${redo[@]}"
  done
done

enter compare
asked=()
[[ ! -f "$preset/compare.yaml" ]] || asked=(--config "$preset/compare.yaml")
python scripts/compare.py "$run" "${asked[@]}"

enter report
report_to=none
! grep -q '^report_to: *wandb' -- "$preset/score.yaml" || report_to=wandb
logged python scripts/report.py "$run" --report_to "$report_to" "${redo[@]}"
printf '   (%s: %d s; the pipeline: %d min)\n' "$stage" $((SECONDS - began)) $((SECONDS / 60))
printf '\n%s\nThe report, with every output: %s\n' "$(sed -n 3p -- "$run/comparison.md")" "$run/report.html"
