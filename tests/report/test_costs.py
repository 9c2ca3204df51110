"""What each method cost in tokens, read from the manifests of a run."""

from __future__ import annotations

from typing import Any

import pytest

from cotkit.report.costs import Cost, costs

SETS = ["gold = gold", "raw = teacher first", "kept = kept", "mixed = gold + kept", "preference = pairs"]


def manifest(stage: str, inputs: dict[str, str], outputs: list[str], **more: Any) -> dict[str, Any]:
    """A manifest whose files have their names as hashes."""
    return {
        "stage": stage,
        "inputs": {key: {"path": name, "sha256": name} for key, name in inputs.items()},
        "outputs": {name: {"sha256": name} for name in outputs},
        "settings": {},
        "counts": {},
        **more,
    }


def training(dataset: str, tokens: int, start: str | None = None, **counts: int) -> dict[str, Any]:
    settings = {"dataset": dataset} | ({"adapter_name_or_path_files": f"files of {start}"} if start else {})
    inputs = {name: name for name in dataset.split(",")} | {"gold_dev": "gold_dev"}
    return manifest("train", inputs, [], settings=settings, counts={"trained_tokens": tokens, **counts})


def teacher(name: str, tokens: int, samples: int) -> dict[str, Any]:
    return manifest("teacher_cot", {}, [name], settings={"num_samples": samples}, counts={"completion_tokens": tokens})


TRAININGS = {
    "strong_baseline": training("gold", 10),
    "teacher_raw": training("raw", 20),
    "distilled": training("kept", 30),
    "mixed": training("mixed,gold", 40),
    "dpo": training("preference", 5, start="distilled"),
    "on_policy": training("kept", 7, start="distilled", generated_tokens=70),
    "foreign": training("own", 50),
}
RUN: dict[str, dict[str, Any]] = {
    "teacher.jsonl": teacher("round 1", 800, samples=4),
    "teacher.round2.jsonl": teacher("round 2", 100, samples=1),
    "kept.jsonl": manifest(
        "filter",
        {"teacher": "round 1", "teacher 2": "round 2", "problems": "train"},
        [line.split(" =")[0] for line in SETS] + ["gold_dev"],
        settings={"sets": SETS},
    ),
    **{f"train/{name}": record for name, record in TRAININGS.items()},
    "predictions/gsm8k/baseline.jsonl": manifest("infer_parallel", {}, [], settings={"adapter": None}),
    "predictions/gsm8k/distilled.jsonl": manifest(
        "infer_parallel", {}, [], settings={"adapter": "run/train/distilled", "adapter_files": "files of distilled"}
    ),
}


def methods(**stems: list[str]) -> list[dict[str, Any]]:
    return [{"method": name, "runs": [{"stem": stem} for stem in found]} for name, found in stems.items()]


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        ("baseline", Cost()),
        ("strong_baseline", Cost(trained=10)),
        ("teacher_raw", Cost(teacher=200, trained=20)),  # one of four samples, of the first round only
        ("distilled", Cost(teacher=900, trained=30)),
        ("mixed", Cost(teacher=900, trained=40)),  # no row of the teacher counts twice
        ("dpo", Cost(teacher=900, trained=35)),  # with the training that it starts from
        ("on_policy", Cost(teacher=900, student=70, trained=37)),
        ("foreign", Cost(trained=50)),  # no filter of this run wrote its rows
    ],
)
def test_the_cost_of_a_method_is_everything_before_it(method: str, cost: Cost):
    assert costs(methods(**{"mixed": ["mixed"], method: [method]}), RUN)[method] == cost


def test_several_runs_of_a_method_have_the_mean_cost():
    run = {**RUN, "train/distilled.seed1": training("kept", 30), "train/distilled.seed2": training("kept", 50)}
    found = costs(methods(distilled=["distilled.seed1", "distilled.seed2"]), run)
    assert found == {"distilled": Cost(teacher=900, trained=40)}


def test_a_cost_with_an_unknown_part_is_left_out():
    """Here the teacher's rows have no manifest, or no prediction names the adapter that a training started from."""
    wanted = methods(strong_baseline=["strong_baseline"], distilled=["distilled"], dpo=["dpo"])
    assert list(costs(wanted, {name: one for name, one in RUN.items() if name != "teacher.jsonl"})) == [
        "strong_baseline"
    ]
    assert list(costs(wanted, {name: one for name, one in RUN.items() if "predictions" not in name})) == [
        "strong_baseline",
        "distilled",
    ]


def test_predictions_of_another_program_have_no_known_cost():
    assert list(costs(methods(theirs=["theirs"], distilled=["distilled"]), RUN)) == ["distilled"]


def test_a_run_without_trainings_has_no_costs():
    assert costs(methods(mine=["mine"], theirs=["theirs"]), {}) == {}
