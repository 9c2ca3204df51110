#!/usr/bin/env bash
#SBATCH --job-name=cot-distill
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --output=outputs/slurm-%j.log
# Runs stage 1 or 4 on all nodes of a SLURM job, one rank per GPU, with outputs in a shared folder.
#
#     sbatch scripts/slurm_infer.sh infer_parallel.py --dataset gsm8k --base_model Qwen/Qwen2-1.5B \
#         --lora_path outputs/qwen2_1.5b/train/distilled --output_path outputs/gsm8k.jsonl
#     sbatch --nodes=4 scripts/slurm_infer.sh teacher_cot.py --config configs/qwen2_1.5b/teacher.yaml ...
#
# Submit from the project's folder with its environment active. Options of sbatch override the #SBATCH lines of this file.
# RANKS_PER_NODE (default: the node's GPUs, else 1) and RDZV_PORT (default 29500) come from the environment. Submit a job
# again if its time limit ended it: it continues with what is missing, on any number of nodes.
set -euo pipefail

# sbatch runs a copy of this file in a folder of its own, so only --help can source what the other scripts share.
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  # shellcheck source=scripts/internal/common.sh
  source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"
elif [[ $# -eq 0 || "$1" == -* ]]; then
  echo "error: expected: sbatch scripts/slurm_infer.sh SCRIPT [ARGS...]; see --help" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?runs inside a SLURM job: sbatch scripts/slurm_infer.sh ...}"

ranks=${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
endpoint="${nodes[0]}:${RDZV_PORT:-29500}"

# exec: SLURM's signals reach srun, and srun's the ranks.
exec srun --kill-on-bad-exit=1 torchrun --nnodes="${#nodes[@]}" --nproc_per_node="$ranks" \
  --rdzv-backend=c10d --rdzv-endpoint="$endpoint" --rdzv-id="$SLURM_JOB_ID" "$@"
