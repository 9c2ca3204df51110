#!/usr/bin/env bash
# Stage 3: trains one method, with LLaMA-Factory or, where its YAML says `stage: distill`, with scripts/distill.py. One
# YAML is one method; key=value after it overrides a line.
#
#   bash scripts/train.sh configs/smollm2_cpu/train/distilled.yaml
#   bash scripts/train.sh configs/qwen2_1.5b/train/distilled.yaml learning_rate=1e-4 output_dir=outputs/try
#   bash scripts/train.sh CONFIG --run DIR            reads DIR/datasets, writes DIR/train/<method>
#   bash scripts/train.sh CONFIG --seed 2             one of several seeds: writes <method>.seed2
#   bash scripts/train.sh CONFIG --overwrite          trains anew
#   LOG=train.log bash scripts/train.sh CONFIG        also keeps what the training prints
#   NPROC=4 bash scripts/train.sh CONFIG              processes on this machine (default: one per GPU, or 1)
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST MASTER_PORT=29500 bash scripts/train.sh CONFIG      on each of two machines
#
# The number of rows per step is the YAML's: processes share them. A killed training continues from its last undamaged
# checkpoint. A finished one is skipped.
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"
[[ $# -ge 1 && "$1" != -* ]] || usage "expected: scripts/train.sh CONFIG.yaml [--run DIR] [--seed N] [--overwrite] [key=value ...]"

config="$1"
shift
options=()
overrides=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --overwrite) options+=("$1") ;;
    --run | --seed)
      [[ $# -ge 2 ]] || usage "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    -*) usage "unknown option $1; known are --run DIR, --seed N, --overwrite" ;;
    *) overrides+=("$1") ;;
  esac
  shift
done

find_gpus
nodes="${NNODES:-1}" node="${NODE_RANK:-0}" local_processes="${NPROC:-$COTKIT_GPUS}"
[[ "$local_processes" -gt 0 ]] || local_processes=1
options+=(--processes "$((nodes * local_processes))")

# One node keeps the record; the others join it.
step="begin" status=0
[[ "$node" -eq 0 ]] || step="join"
output="$(python scripts/internal/train_record.py "$step" "${options[@]}" "$config" "${overrides[@]}")" || status=$?
if [[ $status -ne 4 ]]; then
  [[ -z "$output" ]] || printf '%s\n' "$output"
  exit "$status"
fi
resolved="${output##*$'\n'}"
[[ "$output" == "$resolved" ]] || printf '%s\n' "${output%$'\n'*}"

# LLaMA-Factory's own launcher joins its command line with spaces and splits it again, which breaks paths with spaces.
launcher=(python)
if [[ "$nodes" -gt 1 ]]; then
  launcher=(torchrun --nnodes="$nodes" --node_rank="$node" --nproc_per_node="$local_processes"
    --master_addr="${MASTER_ADDR:?needs the first node}" --master_port="${MASTER_PORT:-29500}")
elif [[ "$local_processes" -gt 1 ]]; then
  launcher=(torchrun --standalone --nproc_per_node="$local_processes")
fi
if grep -q '^report_to: *wandb' -- "$resolved"; then
  export WANDB_DIR="${WANDB_DIR:-$(dirname -- "$resolved")}"
  WANDB_MODE="$(python -c 'from cotkit.core.wandb_run import mode; print(mode())')"
  export WANDB_MODE
  [[ "$WANDB_MODE" != offline ]] || echo "Weights and Biases: recording offline below $WANDB_DIR/wandb"
fi
trainer=(scripts/internal/finetune.py)
! grep -q '^stage: distill$' -- "$resolved" || trainer=(scripts/distill.py)
with_tensors "${launcher[@]}" "${trainer[@]}" "$resolved" 2>&1 | tee -- "${LOG:-/dev/null}"
[[ "$node" -ne 0 ]] || python scripts/internal/train_record.py finish "${options[@]}" "$config" "${overrides[@]}"
