#!/usr/bin/env bash
# Kills the teacher, 2-rank inference and the pipeline with SIGKILL at random moments, resumes them until they finish, and
# compares their outputs with those of undisturbed runs. Exit code 1 if a byte differs or a row is lost or doubled.
# The fake backend writes the texts; the pipeline really trains a tiny random model.
#
#   bash scripts/dev/soak.sh            200 kills, about 30 minutes
#   bash scripts/dev/soak.sh 20         20 kills
#   bash scripts/dev/soak.sh 20 teacher 20 kills of the teacher (or inference, or pipeline)
#   SEED=7 bash scripts/dev/soak.sh     other moments
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../internal/common.sh"

kills="${1:-200}"
only="${2:-}"
[[ "$kills" =~ ^[1-9][0-9]*$ && "$only" =~ ^(teacher|inference|pipeline)?$ ]] ||
  usage "expected: scripts/dev/soak.sh [KILLS [teacher|inference|pipeline]]"
bash scripts/setup.sh
RANDOM="${SEED:-1}"
work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT

# Problems, and the preset of the fault tests with a tiny random student: all of it runs in seconds.
mkdir -p "$work/presets"
PYTHONPATH=tests python - "$work" <<'EOF'
import sys
from pathlib import Path

import torch
from conftest import SMOLLM2, problem, write_rows
from faults.faults_tools import make_preset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

work = Path(sys.argv[1])
write_rows(work / "data/gsm8k/test.jsonl", [problem(number) for number in range(400)])
small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
torch.manual_seed(0)
AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(SMOLLM2, **small)).save_pretrained(work / "tiny")
AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(work / "tiny")
make_preset(work / "presets/preset", work / "tiny")
EOF

model=fake:seconds=0.02,bytes=20000
command_of() { # KIND FOLDER: sets `command`, which writes into FOLDER
  case "$1" in
    teacher) command=(python teacher_cot.py --backend fake --model_name "$model" --input_path "$work/data/gsm8k/test.jsonl"
      --output_path "$2/out.jsonl") ;;
    inference) command=(torchrun --standalone --nproc_per_node=2 infer_parallel.py --backend fake --base_model "$model"
      --dataset gsm8k --data_root "$work/data" --output_path "$2/out.jsonl") ;;
    pipeline) command=(bash scripts/pipeline.sh "$work/presets/preset" --output_root "$2") ;;
  esac
}

results() { # FOLDER: hash and name of every output, except files that hold times; of LLaMA-Factory's only the adapter
  (cd -- "$1" && find . -type f '(' -name '*.jsonl' -o -name '*.md' -o -name '*.json' ')' \
    ! -name '*.manifest.json' ! -name 'report.*' ! -path '*/train/distilled/*' -exec sha256sum {} + | sort -k 2)
  find "$1" -path '*/train/distilled/adapter_model.safetensors' -exec sha256sum {} + | cut -c -64
}

generated() { # FOLDER: FILE:ID of every generated row, one per line
  grep -rHo --include='*.jsonl' '^{"id": "[^"]*", .*"finish_reason"' "$1" | grep -o '^[^{]*{"id": "[^"]*"' |
    sed "s|^$1/||" | sort
}

passes=0 lost=0 doubled=0 differing=0
check() { # KIND: compares a disturbed run, now finished, with the undisturbed one
  passes=$((passes + 1))
  lost=$((lost + $(comm -23 <(generated "$work/$1-alone" | uniq) <(generated "$work/$1" | uniq) | wc -l)))
  doubled=$((doubled + $(generated "$work/$1" | uniq -d | wc -l)))
  diff <(results "$work/$1-alone") <(results "$work/$1") >&2 || differing=$((differing + 1))
}

torn=0
start_over() { # KIND
  mkdir -p "$work/$1"
  torn=$((torn + $(find "$work/$1" -name '*.torn' -exec cat {} + | wc -l)))
  rm -rf -- "${work:?}/$1" "$work/presets/data"
  mkdir -p "$work/$1"
}

broken=0
soak() { # KIND KILLS: kills it KILLS times, each after at most half of the time of an undisturbed run
  local killed=0 pid status began=$SECONDS longest
  say "$1: $2 kills"
  passes=0 lost=0 doubled=0 differing=0 torn=0
  start_over "$1"
  command_of "$1" "$work/$1"
  "${command[@]}" >"$work/log" 2>&1 || fail "$1 does not run undisturbed: $(tail -n 5 "$work/log")"
  longest=$(((SECONDS - began) / 2 + 1)) # seconds
  mv -- "$work/$1" "$work/$1-alone"
  start_over "$1"
  while ((killed < $2)); do
    setsid "${command[@]}" >"$work/log" 2>&1 &
    pid=$!
    sleep "$((RANDOM % longest)).$((RANDOM % 10))$((RANDOM % 10))"
    kill -KILL -- "-$pid" 2>/dev/null || true
    status=0
    wait "$pid" 2>/dev/null || status=$?
    case $status in
      137) killed=$((killed + 1)) ;;
      0) # it finished before the kill
        check "$1"
        start_over "$1"
        ;;
      *) sleep 1 ;; # ranks of a killed launcher still hold the output; they end after their current row
    esac
  done
  sleep 2
  "${command[@]}" >"$work/log" 2>&1 || fail "$1 does not finish after the kills: $(tail -n 5 "$work/log")"
  check "$1"
  start_over "$1"
  printf '%s: kills %d, runs finished %d, torn tails repaired %d, rows lost %d, rows doubled %d, runs that differ from an undisturbed one %d\n' \
    "$1" "$killed" "$passes" "$torn" "$lost" "$doubled" "$differing"
  ((lost + doubled + differing == 0)) || broken=1
}

for kind in teacher inference pipeline; do
  share=$kills
  [[ -n "$only" ]] || case "$kind" in
    teacher) share=$(((kills + 2) / 3)) ;;
    inference) share=$(((kills + 1) / 3)) ;;
    pipeline) share=$((kills / 3)) ;;
  esac
  if [[ -z "$only" || "$only" == "$kind" ]]; then soak "$kind" "$share"; fi
done
exit "$broken"
