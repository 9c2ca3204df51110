"""How a token is drawn: from the library's distribution, with one uniform number, by each row on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import problem, write_rows
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import teacher_cot
from cotkit.core.errors import UserError
from cotkit.generation import engines
from cotkit.generation.backends import sampling
from cotkit.generation.options import BACKENDS, EngineOptions
from cotkit.generation.types import Sampling

SETTINGS = [
    (1.0, 1.0, 0),
    (0.7, 1.0, 0),
    (0.7, 0.8, 20),
    (1.3, 1.0, 5),
    (0.6, 0.95, 0),
    (2.0, 0.9, 1000),
    (1.0, 0.01, 0),
]
IDS = [f"temperature {t} top_p {p} top_k {k}" for t, p, k in SETTINGS]


def options(temperature: float, top_p: float = 1.0, top_k: int = 0) -> Sampling:
    return Sampling(1, temperature=temperature, top_p=top_p, top_k=top_k)


def librarys(scores: torch.Tensor, how: Sampling) -> torch.Tensor:
    """The distribution after the library's own processors, in the order in which `generate` applies them."""
    scores = TemperatureLogitsWarper(how.temperature)(None, scores)
    scores = TopKLogitsWarper(how.top_k)(None, scores) if how.top_k else scores
    scores = TopPLogitsWarper(how.top_p)(None, scores) if how.top_p < 1 else scores
    return scores.softmax(dim=-1)


def generators(rows: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def some_scores(kind: str, vocabulary: int) -> torch.Tensor:
    scores = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    return {"peaked": 4 * scores, "flat": 0.1 * scores, "all equal": 0 * scores, "ties": (2 * scores).round()}[kind]


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_draws_follow_the_librarys_distribution(setting: Any):
    """A chi-square test of 20,000 draws, each by a row with a generator of its own."""
    how, draws = options(*setting), 20_000
    scores = some_scores("peaked", 40)
    expected = librarys(scores[None], how)[0].double()
    chosen = torch.tensor(sampling.choose(scores.expand(draws, -1), how, generators(draws)))
    counts = torch.bincount(chosen, minlength=len(scores)).double()
    assert counts[expected == 0].sum() == 0
    usual = expected * draws >= 5  # the test's approximation needs 5 expected draws; rarer tokens are one class
    found, wanted = ([*x[usual].tolist(), x[~usual].sum().item()] for x in (counts, expected * draws))
    found, wanted = zip(*[(a, b) for a, b in zip(found, wanted, strict=True) if b > 0], strict=True)
    total = sum(wanted)
    assert len(found) == 1 or stats.chisquare(found, [value * draws / total for value in wanted]).pvalue > 0.001


@pytest.mark.parametrize("kind", ["peaked", "flat", "ties"])
@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_each_token_gets_its_share_of_the_numbers(setting: Any, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Evenly spaced numbers in the place of random ones, so that counts are exact to one number."""
    monkeypatch.setattr(sampling, "TOP_P_CANDIDATES", 8)  # fewer than some settings keep
    monkeypatch.setattr(sampling, "TOP_K_MARGIN", 1)
    how, scores, numbers = options(*setting), some_scores(kind, 300), 20_000
    uniform = (torch.arange(numbers, dtype=torch.float64) + 0.5) / numbers
    counts = torch.bincount(sampling.draw(scores.expand(numbers, -1), uniform, how), minlength=300)
    expected = librarys(scores[None], how)[0] * numbers
    if kind == "ties":  # which of two equal tokens the library's top_p keeps is left open
        for value in scores.unique():
            for shares in (counts, expected):
                shares[scores == value] = shares[scores == value].sort().values
    assert (counts - expected).abs().max() < 1.1
    assert counts[expected == 0].sum() == 0


def test_of_equal_tokens_top_p_keeps_the_first_ones_and_top_k_all():
    uniform = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    equal = torch.zeros(100, 8)
    assert set(sampling.draw(equal, uniform, options(1, top_p=0.5)).tolist()) == {0, 1, 2, 3}
    assert set(sampling.draw(equal, uniform, options(1, top_k=3)).tolist()) == set(range(8))


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_a_row_does_not_depend_on_its_neighbours(setting: Any, monkeypatch: pytest.MonkeyPatch):
    how, rows = options(*setting), 30
    kinds = ["peaked", "flat", "all equal", "ties"]
    scores = torch.stack([some_scores(kinds[row % 4], 3000).roll(row) for row in range(rows)])
    together = sampling.choose(scores, how, generators(rows))
    alone = [sampling.choose(scores[row : row + 1], how, generators(rows)[row : row + 1])[0] for row in range(rows)]
    assert alone == together
    assert sampling.choose(scores.flip(0), how, generators(rows)[::-1]) == together[::-1]
    monkeypatch.setattr(sampling, "CACHED_SCORES", 7 * 3000)
    assert sampling.choose(scores, how, generators(rows)) == together


@pytest.mark.parametrize(("top_k", "sorted_rows"), [(0, [1]), (20, [])])
def test_the_vocabulary_is_sorted_only_for_rows_that_need_it(
    monkeypatch: pytest.MonkeyPatch, top_k: int, sorted_rows: list[int]
):
    rows: list[int] = []
    real = sampling._nucleus

    def watched(masses: torch.Tensor, top_p: float) -> torch.Tensor:
        rows.append(len(masses))
        return real(masses, top_p)

    monkeypatch.setattr(sampling, "_nucleus", watched)
    peaked, flat = some_scores("peaked", 20_000) * 2, some_scores("flat", 20_000)
    sampling.choose(torch.stack([peaked, flat, peaked, peaked]), options(1, 0.9, top_k), generators(4))
    assert rows == sorted_rows


def test_a_row_takes_one_number_a_token():
    generator, other = generators(1)[0], generators(1)[0]
    sampling.choose(torch.zeros(1, 5000), options(1), [generator])
    torch.rand((), generator=other, dtype=torch.float64)
    assert torch.equal(generator.get_state(), other.get_state())


@pytest.mark.parametrize("how", [options(0), options(1), options(1, top_k=2), options(1, top_p=0.5)])
def test_scores_that_are_no_numbers_are_refused(how: Sampling):
    scores = torch.zeros(2, 9)
    scores[1, 3] = torch.nan
    with pytest.raises(UserError, match="scores are not numbers; give --dtype float32"):
        sampling.choose(scores, how, generators(2))


def test_manifests_of_sampled_texts_name_the_sampler():
    def settings(backend: str, temperature: float) -> dict[str, Any]:
        return engines.describe(EngineOptions(backend, "owner/name"), Sampling(1, temperature=temperature))

    named = {backend: settings(backend, 0.7)["sampler"] for backend in BACKENDS}
    assert named["transformers"] == "inverse_cdf"
    assert len(set(named.values())) == len(BACKENDS)
    assert all("sampler" not in settings(backend, 0) for backend in BACKENDS)


@pytest.mark.parametrize("temperature", ["0", "0.7"])
def test_a_run_that_another_sampler_began_is_not_continued(tmp_path: Path, temperature: str):
    write_rows(tmp_path / "problems.jsonl", [problem(number) for number in range(2)])
    words = ["--input_path", tmp_path / "problems.jsonl", "--output_path", tmp_path / "out.jsonl", "--backend", "fake"]
    words = [str(word) for word in [*words, "--model_name", "fake", "--temperature", temperature]]
    assert teacher_cot.main(words) == 0
    path = tmp_path / "out.jsonl.manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["settings"].pop("sampler", None)  # as written before samplers had names
    write_rows(path, [manifest])
    if temperature == "0":
        assert teacher_cot.main(words) == 0
    else:
        with pytest.raises(UserError, match="sampler: None -> 'fake'"):
            teacher_cot.main(words)
