"""The machine under a process: how its threads wait, and whether its CPU multiplies bfloat16 numbers in hardware."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

# What scripts/internal/common.sh sets for everything that the shell scripts start. Waiting threads sleep: if they spin,
# they slow all other work on the machine, and themselves, by several times. The OpenMP library reads its variable when
# torch is imported.
DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}

# Flags of /proc/cpuinfo: Intel's matrix units, the vector units of Intel and AMD, and those of ARM.
BFLOAT16_FLAGS = frozenset(("amx_bf16", "avx512_bf16", "bf16"))


def set_defaults() -> None:
    """Sets `DEFAULTS` for this process and its children where the user has set nothing else. Call it before torch loads."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@cache
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has units for bfloat16; False where the system does not say. Without them it is far slower."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return not BFLOAT16_FLAGS.isdisjoint(next(flags, []))
