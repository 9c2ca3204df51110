"""Trains one YAML with LLaMA-Factory for scripts/train.sh. It adds what cotkit/training/safeguards.py holds.

python scripts/internal/finetune.py outputs/smollm2_cpu/train/distilled.yaml
"""

from __future__ import annotations

import sys

from cotkit.core import cli, machine


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: {sys.argv[0]} YAML\n\n{__doc__}")
        return 0
    import torch
    from llamafactory.hparams import read_args
    from llamafactory.train.tuner import run_exp

    from cotkit.training.safeguards import DivergenceGuard, load_in_float32, resume_on_numbered_cpus

    if torch.cuda.is_available():
        machine.gpu_of_rank()  # raises for a rank without one
    values = read_args()
    load_in_float32(values)
    resume_on_numbered_cpus()
    run_exp(values, [DivergenceGuard()])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
