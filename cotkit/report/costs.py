"""What each method cost in tokens: what a teacher and the student wrote for its training, and what it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.filtering.training_sets import GOLD

FIRST_SAMPLES = "teacher first"  # the part of a training set that needs no other samples
START = "adapter_name_or_path_files"  # the adapter that a training started from, as its manifest identifies it


@dataclass(frozen=True)
class Cost:
    """Tokens until a method was trained, those of the methods that it started from among them.

    Attributes:
        teacher: completion tokens of the teacher's rows that its training set was chosen from, rejected rows too.
        student: completion tokens of the student's own samples (on-policy methods).
        trained: tokens of its targets, once for each epoch.
    """

    teacher: float = 0.0
    student: float = 0.0
    trained: float = 0.0

    @property
    def total(self) -> float:
        return self.teacher + self.student + self.trained


class TokenCosts:
    """Follows the hashes in a run's manifests from an adapter back to the teacher's rows.

    Args:
        manifests: output's path within the run -> its manifest, as `read_manifests` returns them.
    """

    def __init__(self, manifests: Mapping[str, Row]) -> None:
        self._trainings = {
            name.removeprefix("train/"): record for name, record in manifests.items() if record["stage"] == "train"
        }
        self._writer = {
            output["sha256"]: record for record in manifests.values() for output in record["outputs"].values()
        }
        predictions = {
            PurePosixPath(name).stem: record["settings"]
            for name, record in manifests.items()
            if record["stage"] == "infer_parallel"
        }
        self._untrained = {stem for stem, settings in predictions.items() if not settings["adapter"]}
        self._adapters = {
            settings["adapter_files"]: PurePosixPath(settings["adapter"]).name
            for settings in predictions.values()
            if settings["adapter"]
        }

    def cost_of(self, stem: str) -> Cost | None:
        """The cost of one method's run; nothing for the untrained model, None if a part of it is unknown."""
        teacher: dict[str, float] = {}  # by hash of the file, so that no row counts twice
        student, trained = 0.0, 0.0
        step: str | None = stem
        while step in self._trainings:
            record = self._trainings[step]
            counts = record["counts"]
            if counts.get("trained_tokens") is None:
                return None
            student += counts.get("generated_tokens") or 0
            trained += counts["trained_tokens"]
            for sha256, tokens in self._teacher_tokens(record):
                if tokens is None:
                    return None
                teacher[sha256] = max(tokens, teacher.get(sha256, 0.0))
            start = record["settings"].get(START)
            if start is None:
                return Cost(sum(teacher.values()), student, trained)
            step = self._adapters.get(start)
        return Cost() if stem in self._untrained else None

    def _teacher_tokens(self, training: Row) -> Iterator[tuple[str, float | None]]:
        """(hash, tokens used) of every teacher file behind the training sets; None for a file without a manifest.

        Gold solutions and training sets that no filter wrote cost nothing.
        """
        for name in str(training["settings"]["dataset"]).replace(" ", "").split(","):
            made = self._writer.get(training["inputs"].get(name, {}).get("sha256", ""))
            if made is None or made["stage"] != "filter":
                continue
            parts = _sources(made["settings"].get("sets", ())).get(name, [])
            for number, sha256 in enumerate(self._teacher_files(made)):
                written = self._writer.get(sha256)
                tokens = written and written["counts"].get("completion_tokens")
                if any(part not in (*GOLD, FIRST_SAMPLES) for part in parts):
                    yield sha256, tokens
                elif FIRST_SAMPLES in parts and number == 0:  # one sample of each problem, of average length
                    yield sha256, tokens and tokens / max(1, written["settings"]["num_samples"])

    def _teacher_files(self, made: Row) -> Iterator[str]:
        """The hashes of the teacher's files that an output was made from, through a vote over them (scripts/vote.py)."""
        for sha256 in (entry["sha256"] for key, entry in made["inputs"].items() if key.split()[0] == "teacher"):
            written = self._writer.get(sha256)
            if written and written["stage"] == "vote":
                yield from self._teacher_files(written)
            else:
                yield sha256


def _sources(declared: Iterable[str]) -> dict[str, list[str]]:
    """Training set -> the parts that it is made of, from lines such as ``mixed = gold + kept``."""
    return {name: parts.split(" + ") for name, _, parts in (line.partition(" = ") for line in declared)}


def costs(methods: Iterable[Row], manifests: Mapping[str, Row]) -> dict[str, Cost]:
    """Method of comparison.json -> its mean cost over its runs, where it is known. {} for a run without trainings."""
    tokens = TokenCosts(manifests)
    found = {method["method"]: [tokens.cost_of(run["stem"]) for run in method["runs"]] for method in methods}
    known = {name: [cost for cost in runs if cost is not None] for name, runs in found.items()}
    if not any(cost.total for runs in known.values() for cost in runs):
        return {}
    return {
        name: Cost(*(fmean(getattr(cost, part) for cost in runs) for part in ("teacher", "student", "trained")))
        for name, runs in known.items()
        if runs
    }
