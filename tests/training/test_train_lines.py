"""The lines of a training that a person sees, from what LLaMA-Factory prints."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT

# As LLaMA-Factory 0.9.5 prints it: bars end with a carriage return, an evaluation has a bar of its own.
PRINTED = """[transformers] warmup_ratio is deprecated and will be removed in v5.2. Use `warmup_steps` instead.
[INFO|trainer.py:1478] 2026-01-01 10:00:00,000 >>   Total optimization steps = 1,200
dataloader.py:759: UserWarning: 'pin_memory' argument is set as true, then device pinned memory won't be used
  0%|          | 0/1200 [00:00<?, ?it/s]\r100%|##########| 1/1 [00:00<00:00, 784.28it/s]\r
{'eval_loss': '1.28', 'eval_runtime': '6.061', 'eval_samples_per_second': '1.32', 'epoch': 0}
 25%|##5       | 300/1200 [10:00<30:00,  2.00s/it]\r
{'loss': '0.512', 'grad_norm': '3.753', 'learning_rate': '0.001', 'epoch': '1'}
 26%|##6       | 310/1200 [10:20<29:40,  2.00s/it]\r
{'loss': '0.498', 'grad_norm': '3.753', 'learning_rate': '0.001', 'epoch': '1'}
{'train_runtime': '30.52', 'train_samples_per_second': '0.328', 'train_loss': '1.067', 'epoch': '2'}
  total_flos               =      888GF
RuntimeError: no space
out/train/distilled: trained in 31 s: 4 steps, 5 rows, 290 trained tokens, held-out loss 1.217
"""
SHOWN = [
    "  step 0 of 1200, held-out loss 1.28",
    "  step 300 of 1200, loss 0.512, 30:00 left",
    "RuntimeError: no space",
    "out/train/distilled: trained in 31 s: 4 steps, 5 rows, 290 trained tokens, held-out loss 1.217",
]


def filtered(text: str) -> list[str]:
    command = [sys.executable, "scripts/internal/train_lines.py"]
    done = subprocess.run(command, cwd=ROOT, input=text.encode(), capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_the_lines_are_few_and_say_step_loss_and_time_left():
    """The second loss comes less than 30 seconds after the first, so it is left out."""
    assert filtered(PRINTED) == SHOWN


def test_losses_are_shown_where_the_number_of_steps_is_not_known():
    assert filtered("{'loss': 0.5, 'epoch': 1.0}\n") == ["  loss 0.5"]
    assert filtered("") == []


def test_bytes_that_are_no_text_do_not_stop_it():
    command = [sys.executable, "scripts/internal/train_lines.py"]
    text = b"\xff\xfe bar\rValueError: \xe4\n"
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, check=True)
    assert done.stdout.decode() == "ValueError: �\n"


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"eval_loss": 1.216619}, "trained in 31 s: 4 steps, 5 rows, 290 trained tokens, held-out loss 1.217"),
        ({}, "trained in 31 s: 4 steps, 5 rows, 290 trained tokens"),
    ],
)
def test_a_finished_training_is_one_readable_line(counts: dict[str, Any], says: str):
    import runpy

    record = runpy.run_path(str(ROOT / "scripts/internal/train_record.py"), run_name="train_record")
    base = {"steps": 4, "rows": 5, "trained_tokens": 290, "train_runtime": 31.2, "total_flos": 9.5e8}
    assert record["described"](base | counts) == says
