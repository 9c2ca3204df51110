"""The sampling bench: all samplings write the same number of tokens, and the table compares them with greedy."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from conftest import ROOT

bench = runpy.run_path(str(ROOT / "scripts/dev/bench_sampling.py"))


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--vocabulary", "20000"]], ids=["the model itself", "a larger vocabulary"])
def test_every_sampling_is_measured(
    tiny_model: Path, data_root: Path, more: list[str], capsys: pytest.CaptureFixture[str]
):
    words = ["--base_model", str(tiny_model), "--data_root", str(data_root), "--dataset", "gsm8k", *more]
    assert bench["main"]([*words, "--max_new_tokens", "3", "--repetitions", "2", "--limit", "4"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 2 + len(bench["SETTINGS"])
    assert all(len(line.split("|")[8].split(",")) == 2 for line in lines[2:])


def test_the_table_compares_medians_with_greedy():
    greedy, sampled = [(4.0, 4.0), (5.0, 2.0), (100.0, 1.0)], [(2.0, 5.0), (2.5, 4.0), (1.0, 3.0)]
    lines = bench["table"]([greedy, *[sampled] * (len(bench["SETTINGS"]) - 1)], 40).split("\n")
    assert lines[2].endswith("| 8 | 1.00 | 20 | 1.00 | 4.0, 5.0, 100.0 |")
    assert lines[3].endswith("| 20 | 2.50 | 10 | 0.50 | 2.0, 2.5, 1.0 |")
