"""The machine under a process: how its threads wait, its GPUs, and whether its CPU multiplies bfloat16 in hardware."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from cotkit.core.errors import UserError

# What scripts/internal/common.sh sets for everything that the shell scripts start. Waiting threads sleep: if they spin,
# they slow all other work on the machine, and themselves, by several times. The OpenMP library reads its variable when
# torch is imported.
DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}

# Flags of /proc/cpuinfo: Intel's matrix units, the vector units of Intel and AMD, and those of ARM.
BFLOAT16_FLAGS = frozenset(("amx_bf16", "avx512_bf16", "bf16"))


# Device files of the drivers of NVIDIA (also on its small boards), of AMD and of Windows' Linux. Without one there is no
# GPU, and torch, which takes seconds to load, need not be asked.
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")


def count_gpus() -> int:
    """The GPUs that torch would use: those of CUDA_VISIBLE_DEVICES, or all. 0 where a driver is broken."""
    if not any(map(os.path.exists, DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_of_rank() -> str:
    """This rank's device on a machine with GPUs, such as ``cuda:1``, by torchrun's variable LOCAL_RANK.

    Raises UserError, naming the rank, if there are fewer GPUs than ranks.
    """
    import torch

    rank, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= found:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = "" if shown is None else f" (CUDA_VISIBLE_DEVICES={shown})"
        remedy = f"start as many processes as there are: NPROC={found}, or torchrun --nproc_per_node={found}"
        raise UserError(f"rank {rank} of this machine has no GPU: torch finds {found}{visible}; {remedy}")
    return f"cuda:{rank}"


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
