# shellcheck shell=bash
# Sourced by the other scripts: strict mode, the repository's root as working directory, its environment on the PATH.
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
cd -- "$ROOT"

# The environment that is active, or the repository's own.
if [[ -z "${VIRTUAL_ENV:-}" && -z "${CONDA_PREFIX:-}" ]]; then
  ENVIRONMENT="$ROOT/.venv"
  export PATH="$ENVIRONMENT/bin:$PATH"
else
  ENVIRONMENT="${VIRTUAL_ENV:-$CONDA_PREFIX}"
fi
export PYTHONUTF8=1          # files are UTF-8 whatever the locale says
export HF_HUB_DISABLE_TELEMETRY=1
export TOKENIZERS_PARALLELISM=false
# Threads that wait for each other sleep instead of spinning: beside any other load, spinning costs several times the work.
export OMP_WAIT_POLICY=PASSIVE

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

count_gpus() { nvidia-smi -L 2>/dev/null | wc -l || true; }

# Runs a command that computes with tensors. On a CPU every step takes and frees gigabytes of them, and by default glibc gets
# each large one from the kernel anew, which fills it with zeros page by page; here it keeps what is freed, in huge pages.
# Measured with one of the study's trainings, loading included: 17 million page faults in its first 40 steps without this,
# 0.14 million in the next 18 with it. Not with a GPU, where a model's weights pass through this memory only once.
with_tensors() {
  local keep=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.top_pad=67108864
  if [[ "$(count_gpus)" -gt 0 ]]; then
    "$@"
  else
    GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:$keep}" "$@"
  fi
}
