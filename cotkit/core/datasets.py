"""The one table of data sets: the kind of answer of each and where its splits come from.

A new data set is a new entry. All other modules ask for the kind, never for a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cotkit.core.errors import UserError

# number: a number on an answer line; integer: 0 to 999; latex: any formula; choice: an option's letter or its number
AnswerKind = Literal["number", "integer", "latex", "choice"]
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)


@dataclass(frozen=True)
class Columns:
    """Which columns of a source hold what.

    Args:
        question: joined by a space if there are several.
        answer: the answer, or a text that `answer_pattern` finds it in; None if that is the solution.
        solution: the reasoning; None if there is none.
        id: None to number the rows.
        answer_pattern: a regular expression whose last match holds the answer in its first group, or `BOXED`. If only
            white space follows the match, the solution ends before it.
        extra: columns that problems keep as they are.
        other_question: what some copies of the source call the question.
    """

    question: tuple[str, ...] = ("question",)
    answer: str | None = "answer"
    solution: str | None = "solution"
    id: str | None = None
    answer_pattern: str | None = None
    extra: tuple[str, ...] = ()
    other_question: str | None = None


BOXED = "boxed"  # an `answer_pattern`: the content of the last \\boxed{}


@dataclass(frozen=True)
class Published:
    """A split where it was published: on the hub at a commit, and as raw files below --source.

    Args:
        repository: hub id of the data set.
        revision: commit of the repository.
        raw_files: the same rows in the same order, as JSON Lines.
        columns: of hub and raw files alike.
        hub_split: name of the split on the hub.
        configs: the hub's configurations, read one after the other.
        without: a column and a value; rows that have it are no problems of this project.
    """

    repository: str
    revision: str
    raw_files: tuple[str, ...]
    columns: Columns
    hub_split: str = "test"
    configs: tuple[str | None, ...] = (None,)
    without: tuple[str, str] | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set of the table: published splits, or a generator.

    Args:
        kind: of its answers.
        splits: the published splits by name.
        shares: how the published train split is divided at random.
        disjoint_from: a data set whose test questions are removed from train.
        generator: what scripts/prepare_data.py makes it with, if nothing is published.
    """

    kind: AnswerKind
    splits: dict[str, Published] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    disjoint_from: str | None = None
    generator: str | None = None


_TRAIN_AND_DEV = {"train": "0.9", "dev": "0.1"}  # those of the original experiment, also in split and seed
# The text after the last ####.
_HASHES = Columns(answer="solution", answer_pattern=r"(?s)####(?!.*####)(.*)")
_COMPETITION = Columns(extra=("subject", "level"), other_question="problem")
_SUBJECTS = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"


def _test_set(repository: str, revision: str, raw_file: str, columns: Columns, **more: Any) -> dict[str, Published]:
    """The splits of a data set that is published only for testing."""
    return {"test": Published(repository, revision, (raw_file,), columns, **more)}


def _gsm8k(split: str) -> Published:
    columns = replace(_HASHES, answer="answer", solution="answer")
    revision, raw_file = "e53f048856ff4f594e959d75785d2c2d37b678ee", f"gsm8k/{split}.jsonl"
    return Published("openai/gsm8k", revision, (raw_file,), columns, split, configs=("main",))


DATASETS: dict[str, DataSet] = {
    "gsm8k": DataSet("number", {"train": _gsm8k("train"), "test": _gsm8k("test")}, shares=_TRAIN_AND_DEV),
    "gsm_symbolic": DataSet("number", generator="gsm_symbolic"),
    "gsm_plus": DataSet(
        "number",
        _test_set(
            "qintongli/GSM-Plus",
            "3b708db57b96a16e8e3368ed2956990c0809440e",
            "gsm_plus/test.jsonl",
            replace(_HASHES, extra=("perturbation_type",)),
            without=("perturbation_type", "critical thinking"),  # a quantity is missing, and the answer is None
        ),
    ),
    "svamp": DataSet(
        "number",
        _test_set(
            "ChilleD/SVAMP",
            "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
            "svamp/test.jsonl",
            Columns(question=("Body", "Question"), answer="Answer", solution=None),
        ),
    ),
    "math": DataSet(
        "latex",
        {
            "train": Published(
                "EleutherAI/hendrycks_math",
                "21a5633873b6a120296cce3e2df9d5550074f4a3",
                ("math/train-00.jsonl", "math/train-01.jsonl"),
                Columns(question=("problem",), answer="solution", answer_pattern=BOXED),
                hub_split="train",
                configs=tuple(_SUBJECTS.split()),
            )
        },
        shares=_TRAIN_AND_DEV,
        disjoint_from="math500",
    ),
    "math500": DataSet(
        "latex",
        _test_set(
            "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "math500/test.jsonl", _COMPETITION
        ),
    ),
    "aime": DataSet(
        "integer",
        _test_set(
            "HuggingFaceH4/aime_2024",
            "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            "aime/aime24.jsonl",
            _COMPETITION,
            hub_split="train",
        ),
    ),
    "aime25": DataSet(
        "integer",
        _test_set("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "aime/aime25.jsonl", _COMPETITION),
    ),
    "amc23": DataSet(
        "choice",
        _test_set("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "amc23/test.jsonl", _COMPETITION),
    ),
}
KINDS: dict[str, AnswerKind] = {name: dataset.kind for name, dataset in DATASETS.items()}
DESCRIPTION_FILE = "dataset.json"  # beside the splits of every prepared set: name, kind, source, rows of each split

# The field of a problem that says its kind. The data sets of the table above need none.
KIND_FIELD = "answer_kind"


def kind_of(row: Mapping[str, Any], where: str) -> AnswerKind:
    """The kind of a problem's answer: its own field `answer_kind`, or that of its data set.

    Raises UserError, which begins with `where` (a file and line), if neither is known.
    """
    if KIND_FIELD in row:
        if row[KIND_FIELD] not in ANSWER_KINDS:
            raise UserError(
                f"{where}: {KIND_FIELD} must be one of {', '.join(ANSWER_KINDS)}, found {row[KIND_FIELD]!r}"
            )
        return row[KIND_FIELD]
    name = row.get("dataset")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UserError(
            f"{where}: unknown dataset {name!r}; the known ones are {', '.join(KINDS)}; rows of your own data need the field {KIND_FIELD!r}"
            f" ({', '.join(ANSWER_KINDS)}), which scripts/prepare_data.py writes"
        )
    return kind
