"""compare.py on planted per-item scores: findings, intervals, verdicts, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import read_rows, write_rows

from cotkit.evaluation import stats
from cotkit.evaluation.metrics import SCHEMA, Accuracy
from scripts import compare

Right = list[list[bool]]  # by question, by sample


def add_method(run: Path, stem: str, right: Right, **changes: Any) -> Path:
    """Writes the two files that score.py would, for these right and wrong answers; returns the summary's path."""
    folder = run / "predictions/gsm8k"
    verdicts = [(number, sample, ok) for number, samples in enumerate(right) for sample, ok in enumerate(samples)]
    write_rows(
        folder / f"{stem}.scores.jsonl",
        [
            {"id": f"q{number}", "sample": sample, "verdict": "correct" if ok else "wrong"}
            for number, sample, ok in verdicts
        ],
    )
    accuracy = Accuracy(len(right[0]))
    accuracy.questions.update(map(sum, right))
    summary = {
        "schema": SCHEMA,
        "dataset": "gsm8k",
        "protocol": "default",
        "n": len(verdicts),
        "questions": len(right),
        "samples": len(right[0]),
        "missing": 0,
        **accuracy.describe(),
        "verdicts": {"no_answer": 0},
        "ended_with_eos": 1.0,
        "truncated": 0.0,
        "word_count": 50.0,
        "words_to_answer": 40.0,
        "runaway_text": 0.5,
        "steps": {"outputs": 0, "share_right": None},
        "problems_sha256": "0",
        **changes,
    }
    return write_rows(folder / f"{stem}.summary.json", [summary])


def one_sample(correct: Iterable[int], questions: int = 40) -> Right:
    return [[number in set(correct)] for number in range(questions)]


def compared(run: Path, *words: str) -> dict[str, Any]:
    assert compare.main([str(run), *words]) == 0
    return json.loads((run / "comparison.json").read_text(encoding="utf-8"))


def first_sentence(run: Path) -> str:
    return (run / "comparison.md").read_text(encoding="utf-8").split("\n")[2]


def test_every_pair_on_the_same_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for stem, correct in (("distilled", range(5, 20)), ("baseline", range(8)), ("strong_baseline", ())):
        add_method(tmp_path, stem, one_sample(correct))
    result = compared(tmp_path)
    (dataset,) = result["datasets"]
    assert [method["method"] for method in dataset["methods"]] == ["baseline", "strong_baseline", "distilled"]
    pairs = {(pair["method"], pair["reference"]): pair for pair in dataset["pairs"]}
    assert list(pairs) == [("strong_baseline", "baseline"), ("distilled", "baseline"), ("distilled", "strong_baseline")]
    pair = pairs["distilled", "baseline"]
    assert pair["wins"] == [f"q{number}" for number in range(8, 20)]
    assert pair["losses"] == [f"q{number}" for number in range(5)]
    assert pair["difference"] == pytest.approx(7 / 40)
    assert pair["low"] < pair["difference"] < pair["high"]
    assert pair["test"] == "McNemar's exact test" and pair["p"] == pytest.approx(
        0.1435, abs=1e-4
    )  # exact binomial, 5 of 17
    assert pair["interval"] == "Tango's score interval"
    assert pair["verdict_low"] < pair["low"] < pair["high"] < pair["verdict_high"]
    assert [pair["p_adjusted"] for pair in dataset["pairs"]] == stats.holm([pair["p"] for pair in dataset["pairs"]])
    assert result["family"] == 3
    assert pairs["strong_baseline", "baseline"]["verdict"] == "worse"
    assert pairs["distilled", "strong_baseline"]["verdict"] == "better"
    assert pair["verdict"] == "inconclusive"
    assert capsys.readouterr().out == (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_the_first_sentence_is_the_finding(tmp_path: Path):
    add_method(tmp_path, "baseline", one_sample(range(8)))
    result = compared(tmp_path)
    assert (
        result["finding"]
        == first_sentence(tmp_path)
        == ("On gsm8k (40 questions) only baseline was scored, so there is nothing to compare.")
    )
    add_method(tmp_path, "strong_baseline", one_sample(range(10)))
    assert (
        "no method is shown to differ from baseline: the largest difference, of strong_baseline, is +5.0 points"
        in (compared(tmp_path)["finding"])
    )
    add_method(tmp_path, "distilled", one_sample(range(35)))
    compared(tmp_path)
    sentence = first_sentence(tmp_path)
    assert sentence.startswith(
        "On gsm8k (40 questions) distilled is better than baseline: 87.5 % right against 20.0 %, a difference of +67.5 points "
        "(interval +"
    )
    assert (
        "p < 0.001 after Holm's correction); it is also better than the next best, strong_baseline: +62.5 points"
        in sentence
    )
    assert "strong_baseline, and distilled is worse" not in sentence
    compared(tmp_path, "--reference", "distilled")
    assert "no method is shown to be better than distilled, and baseline is worse: -67.5 points" in first_sentence(
        tmp_path
    )


def test_the_answer_in_five_columns_comes_before_all_figures(tmp_path: Path):
    """The most accurate method first; differences and verdicts are those against the reference."""
    for stem, correct in (("baseline", range(8)), ("complete", range(35)), ("distilled", range(10))):
        add_method(tmp_path, stem, one_sample(correct))
    compared(tmp_path)
    lines = (tmp_path / "comparison.md").read_text(encoding="utf-8").split("\n")
    start = lines.index(
        "| method | accuracy [95 %] | difference to baseline in points [interval] | words to the answer | verdict |"
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : start + 5]]
    assert [[row[0], row[1].split(" [")[0], row[2].split(" [")[0], *row[3:]] for row in cells] == [
        ["complete", "87.5 %", "+67.5", "40", "better"],
        ["distilled", "25.0 %", "+5.0", "40", "inconclusive"],
        ["baseline", "20.0 %", "", "40", "the reference"],
    ]
    assert start < min(number for number, line in enumerate(lines) if "runaway text" in line)


def test_only_the_asked_pairs_and_those_with_the_reference_are_tested(tmp_path: Path):
    """A small difference is shown among few pairs that would not be among all."""
    for stem, right in (("baseline", 3), ("a", 16), ("b", 23), ("c", 14), ("d", 15)):
        add_method(tmp_path, stem, one_sample(range(right)))
    every = {(pair["method"], pair["reference"]): pair for pair in compared(tmp_path)["datasets"][0]["pairs"]}
    assert len(every) == 10 and every["b", "a"]["verdict"] == "inconclusive"
    config = tmp_path / "compare.yaml"
    asked = ["b against a", "a against baseline", "b against c on gsm8k", "b against missing", "c against d on math500"]
    config.write_text(yaml.safe_dump({"pairs": asked}), encoding="utf-8")
    result = compared(tmp_path, "--config", str(config))
    (dataset,) = result["datasets"]
    pairs = {(pair["method"], pair["reference"]): pair for pair in dataset["pairs"]}
    assert list(pairs) == [*((name, "baseline") for name in "abcd"), ("b", "a"), ("b", "c")]
    assert result["asked"] == asked and result["family"] == 6
    assert [pair["p_adjusted"] for pair in dataset["pairs"]] == stats.holm([pair["p"] for pair in dataset["pairs"]])
    assert pairs["b", "a"]["p"] == every["b", "a"]["p"] and pairs["b", "a"]["verdict"] == "better"
    assert dataset["notes"] == ["b against missing was asked, but there are no scores of missing here"]
    assert first_sentence(tmp_path).endswith("after Holm's correction).")  # b and d, the next best, were not compared


def test_a_data_set_that_nothing_is_asked_of_shows_accuracies_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for stem, right in (("baseline", 8), ("distilled", 30)):
        add_method(tmp_path, stem, one_sample(range(right)))
    (dataset,) = compared(tmp_path, "--pairs", "distilled against baseline on math500")["datasets"]
    assert dataset["pairs"] == []
    assert "on math500: no such data set was scored; known are gsm8k" in capsys.readouterr().err
    assert "(40 questions) no methods were compared" in first_sentence(tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| not compared |" in text and "| 75.0 % [" in text


@pytest.mark.parametrize("pair", ["a b", "a against a", "a against b on", "against b"])
def test_a_pair_has_two_methods(tmp_path: Path, pair: str, capsys: pytest.CaptureFixture[str]):
    add_method(tmp_path, "baseline", one_sample(range(8)))
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path), "--pairs", pair])
    assert "'A against B' or 'A against B on DATASET' is expected, found " in capsys.readouterr().err


def test_tokens_to_the_answer_leave_out_the_text_beyond_it_and_missing_predictions(tmp_path: Path):
    add_method(tmp_path, "baseline", one_sample(range(2), 4))
    path = tmp_path / "predictions/gsm8k/baseline.scores.jsonl"
    counts = ((100, 50, 25, "length"), (30, 10, 10, "stop"), (0, 0, 0, "missing"), (20, 0, 0, "stop"))
    keys = ("completion_tokens", "words", "words_to_answer", "finish_reason")
    rows = [{**row, **dict(zip(keys, item, strict=True))} for row, item in zip(read_rows(path), counts, strict=True)]
    write_rows(path, rows)
    (method,) = compared(tmp_path)["datasets"][0]["methods"]
    assert method["runs"][0]["tokens_to_answer"] == pytest.approx((50 + 30 + 20) / 3)


def test_the_finding_compares_the_best_with_the_next_best_whatever_their_order(tmp_path: Path):
    add_method(tmp_path, "baseline", one_sample(range(5)))
    add_method(tmp_path, "a", one_sample(range(33)))
    add_method(tmp_path, "b", one_sample(range(2, 31)))
    finding = compared(tmp_path)["finding"]
    assert " a is better than baseline: 82.5 % right against 12.5 %" in finding
    assert "it is not shown to be better than the next best, b: +10.0 points (interval -" in finding
    add_method(tmp_path, "b", one_sample(range(15)))
    assert "it is also better than the next best, b: +45.0 points (interval +" in compared(tmp_path)["finding"]


@pytest.mark.parametrize("wins, losses, p", [(168, 184, 0.42), (141, 111, 0.068), (195, 149, 0.015)])
def test_the_original_experiment(tmp_path: Path, wins: int, losses: int, p: float):
    """1319 questions with these discordant pairs: what the published predictions show and what they do not."""
    add_method(tmp_path, "baseline", one_sample(range(losses), 1319))
    add_method(tmp_path, "distilled", one_sample(range(losses, losses + wins), 1319))
    (pair,) = compared(tmp_path)["datasets"][0]["pairs"]
    assert float(f"{pair['p']:.2g}") == p
    assert (len(pair["wins"]), len(pair["losses"])) == (wins, losses)
    assert pair["verdict"] == ("better" if p < 0.05 else "no difference shown")
    assert 0.03 < pair["minimum_detectable_difference"] < 0.045


def test_several_samples_use_all_of_them(tmp_path: Path):
    add_method(tmp_path, "baseline", [[True, False]] * 20 + [[False, False]] * 20)
    add_method(tmp_path, "distilled", [[True, True]] * 15 + [[False, False]] * 25)
    (pair,) = compared(tmp_path)["datasets"][0]["pairs"]
    assert pair["interval"] == "Student's t over questions and runs"
    assert (len(pair["wins"]), len(pair["losses"])) == (15, 5)
    assert pair["difference"] == pytest.approx((30 - 20) / 80)
    assert 0.02 < pair["p"] < 0.06  # McNemar's test of these 15 wins and 5 losses gives 0.04


def test_several_seeds_of_a_method(tmp_path: Path):
    rng = np.random.default_rng(7)
    add_method(tmp_path, "baseline", one_sample(range(30), 300))
    for seed, share in ((1, 0.30), (2, 0.34), (10, 0.26)):
        add_method(tmp_path, f"distilled.seed{seed}", one_sample(np.flatnonzero(rng.random(300) < share), 300))
    (dataset,) = compared(tmp_path)["datasets"]
    baseline, distilled = dataset["methods"]
    assert [run["seed"] for run in distilled["runs"]] == [1, 2, 10] and baseline["standard_deviation"] is None
    accuracies = [run["accuracy"] for run in distilled["runs"]]
    assert distilled["accuracy"] == pytest.approx(np.mean(accuracies))
    assert distilled["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert distilled["accuracy_low"] < min(accuracies) < max(accuracies) < distilled["accuracy_high"] + 0.02
    (pair,) = dataset["pairs"]
    assert pair["test"] == "the same t" and pair["verdict"] == "better"
    assert pair["low"] < pair["difference"] < pair["high"]
    table = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| accuracy [95 %] | runs | standard deviation |" in table
    assert f"] | 3 | {distilled['standard_deviation']:.3f} |" in table and "] | 1 |  |" in table


def test_runs_that_all_agree_leave_what_the_number_of_questions_can_show(tmp_path: Path):
    for stem in ("baseline", "distilled.seed1", "distilled.seed2"):
        add_method(tmp_path, stem, one_sample(range(4)))
    (pair,) = compared(tmp_path)["datasets"][0]["pairs"]
    assert (pair["difference"], pair["p"], pair["verdict"]) == (0.0, 1.0, "inconclusive")
    assert pair["low"] < -0.03 and pair["high"] > 0.03
    method = compared(tmp_path)["datasets"][0]["methods"][1]
    assert (method["accuracy"], method["standard_deviation"]) == (0.1, 0.0)
    assert method["accuracy_low"] < 0.05 and method["accuracy_high"] > 0.2


def test_interval_p_and_verdict_never_contradict_one_another(tmp_path: Path):
    rng = np.random.default_rng(3)
    for number in range(6):
        add_method(tmp_path, f"m{number}", one_sample(np.flatnonzero(rng.random(60) < 0.1 + 0.08 * number), 60))
    add_method(tmp_path, "baseline", one_sample([], 60))
    pairs = compared(tmp_path)["datasets"][0]["pairs"]
    shown = [pair["verdict"] in ("better", "worse") for pair in pairs]
    assert any(shown) and not all(shown)
    for pair, is_shown in zip(pairs, shown, strict=True):
        assert is_shown == (pair["p_adjusted"] < 0.05) == (pair["p"] < pair["level"])
        assert is_shown == (pair["verdict_low"] > 0 or pair["verdict_high"] < 0)


def test_it_is_the_same_twice(tmp_path: Path):
    for stem in ("baseline", "distilled.seed1", "distilled.seed2"):
        add_method(tmp_path, stem, one_sample(range(len(stem))))
    compared(tmp_path)
    before = (tmp_path / "comparison.json").read_bytes()
    (tmp_path / "comparison.json").unlink()
    compared(tmp_path)
    assert (tmp_path / "comparison.json").read_bytes() == before


def test_methods_with_other_settings_are_compared_with_a_note(tmp_path: Path):
    for stem, tokens in (("baseline", 160), ("distilled", 160)):
        add_method(tmp_path, stem, one_sample(range(8)))
        settings = {"model": stem, "adapter": stem, "max_new_tokens": tokens}
        write_rows(tmp_path / f"predictions/gsm8k/{stem}.jsonl.manifest.json", [{"settings": settings}])
    assert compared(tmp_path)["datasets"][0]["notes"] == []
    write_rows(
        tmp_path / "predictions/gsm8k/distilled.jsonl.manifest.json", [{"settings": settings | {"max_new_tokens": 512}}]
    )
    (note,) = compared(tmp_path)["datasets"][0]["notes"]
    assert note == "distilled has other settings than baseline: max_new_tokens: 160 -> 512"
    assert f"Note: {note}.\n" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_failed_requests_are_a_note(tmp_path: Path):
    add_method(tmp_path, "baseline", one_sample(range(8)))
    add_method(tmp_path, "distilled", one_sample(range(8)), failed=2)
    assert compared(tmp_path)["datasets"][0]["notes"] == ["2 requests of distilled failed; they count as wrong"]


def test_rows_steps_and_tokens_of_trainings_are_listed(tmp_path: Path):
    """Rows, steps and trained tokens from the manifests of finished trainings; others are left out."""
    for stem in ("baseline", "distilled"):
        add_method(tmp_path, stem, one_sample(range(3)))
    counts = {"rows": 6052, "steps": 570, "trained_tokens": 2143000, "generated_tokens": 81000, "train_runtime": 9.0}
    for name, status in (("distilled", "done"), ("mixed", "running")):
        path = tmp_path / f"train/{name}.manifest.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"stage": "train", "status": status, "counts": counts}), encoding="utf-8")
    assert compared(tmp_path)["trainings"] == {
        "distilled": {
            "rows": 6052,
            "steps": 570,
            "trained_tokens": 2143000,
            "generated_tokens": 81000,
            "eval_loss": None,
        }
    }
    table = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| distilled | 6,052 | 570 | 2,143,000 | 81,000 |\n" in table
    assert "held-out loss" not in table
