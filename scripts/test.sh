#!/usr/bin/env bash
# Set-up, linters, the fast tests, then the slow ones. With arguments: one call of pytest, which gets them.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/evaluation -k words
#   bash scripts/test.sh -m slow tests/faults
# shellcheck source=scripts/internal/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/internal/common.sh"

bash scripts/setup.sh
if ! command -v chromium >/dev/null && [[ "$(id -u)" -eq 0 ]] && command -v apt-get >/dev/null; then
  say "installing chromium, which opens the report's page"
  { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } >/dev/null ||
    say "chromium could not be installed: the tests that open the page are skipped"
fi
say "ruff, import-linter and shellcheck"
ruff check .
ruff format --check .
lint-imports --no-cache
shellcheck --external-sources scripts/*.sh scripts/*/*.sh
if [[ $# -gt 0 ]]; then
  say "pytest $*"
  exec python -m pytest "$@"
fi
say "fast tests"
python -m pytest
say "slow tests"
python -m pytest -m slow
