# shellcheck shell=bash
# Sourced by the other scripts: strict mode, the repository's root as working directory, its environment on the PATH.
set -euo pipefail
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
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
