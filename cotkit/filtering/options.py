"""The flags of stage 2, and the check of the rules' examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json
from cotkit.core.manifest import path_for
from cotkit.core.problems import refuse_repeated
from cotkit.filtering import rules
from cotkit.filtering.records import Parameters
from cotkit.filtering.training_sets import BUILT_IN, SELECTIONS, TrainingSet, parse_set, parse_sets

NGRAM = 8  # words; two questions share a run of 8 words by chance very rarely


@dataclass(frozen=True)
class FilterOptions:
    """The flags of stage 2 under their own names; those of the rules are in `parameters`."""

    config: Path | None
    input_path: tuple[Path, ...]
    output_path: Path
    dataset_dir: Path
    dev_path: tuple[Path, ...]
    dev_limit: int | None
    problems_path: tuple[Path, ...]
    only_retry: bool
    student_model: str | None
    workers: int | None
    sets: dict[str, TrainingSet]
    select: str
    max_per_question: int | None
    skip_rules: tuple[str, ...]
    test_paths: tuple[Path, ...]
    ngram: int
    examples: tuple[str, ...]
    limit: int | None
    seed: int
    overwrite: bool
    dry_run: bool
    parameters: Parameters

    @property
    def aligned_sources(self) -> set[str]:
        """The sources among whose rows a set chooses those that suit the student."""
        return {part.source for declared in self.sets.values() for part in declared.aligned(self.select)}

    @property
    def outputs(self) -> dict[str, Path]:
        """The files beside the training sets, by what they hold."""
        if self.only_retry:
            return {"retry": self.output_path}
        beside = self.output_path.with_suffix
        return {
            "kept": self.output_path,
            "rejected": beside(".rejected.jsonl"),
            "retry": beside(".retry.jsonl"),
            **({"alignment": beside(".alignment.jsonl")} if self.aligned_sources else {}),
            "report": beside(".report.json"),
            "markdown": beside(".report.md"),
        }


def declared_set(text: str) -> TrainingSet:
    """An argparse type: a training set. argparse shows the text of its own error only."""
    try:
        return parse_set(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser(doc: str | None) -> cli.StageParser:
    parser = cli.StageParser(doc, "limit", "seed", "dry_run", "overwrite")
    add = parser.add_argument_group("stage 2").add_argument
    add("--input_path", nargs="+", type=Path, required=True, metavar="JSONL", help="teacher rows, one file per round")
    add("--output_path", type=Path, required=True, metavar="JSONL", help="kept rows")
    add("--dataset_dir", type=Path, metavar="DIR", help="training sets (default: datasets beside the output)")
    add(
        "--dev_path",
        nargs="*",
        type=Path,
        default=[],
        metavar="JSONL",
        help="problems for the set gold_dev, to watch the loss",
    )
    add("--dev_limit", type=cli.positive_int, metavar="N", help="only the first N of them")
    add(
        "--problems_path",
        nargs="*",
        type=Path,
        default=[],
        metavar="JSONL",
        help="problems; a row of another id is refused",
    )
    add("--only_retry", action="store_true", help="write only the problems without a kept sample, to --output_path")
    add("--student_model", metavar="NAME", help="model whose tokenizer counts `tokens`")
    add("--workers", type=cli.positive_int, metavar="N", help="processes (default: all cores, 1 for small inputs)")

    add = parser.add_argument_group("training sets").add_argument
    text = f"of {', '.join(BUILT_IN)}, or NAME = SOURCE [SELECTION] [CAP] [+ ...] (default gold distilled)"
    default = [parse_set("gold"), parse_set("distilled")]
    add("--sets", nargs="+", type=declared_set, metavar="SET", default=default, help=text)
    add("--select", choices=SELECTIONS, default="first", help="which of a question's kept samples (default first)")
    add("--max_per_question", type=cli.positive_int, metavar="N", help="kept samples per question (default: 1 or all)")
    add("--keep_thinking", action="store_true", help="put the think block into the target")

    add = parser.add_argument_group("rules").add_argument
    add("--skip_rules", nargs="*", choices=rules.REASONS, default=[], metavar="RULE", help="rules not to apply")
    for name, kind, text in (
        ("banned", str, "phrases that the reasoning may not hold, as whole words"),
        ("task_talk", str, "phrases about the task that the reasoning may not hold, as whole words"),
        ("min_words", int, "least words of reasoning"),
        ("max_words", int, "most words of reasoning"),
        ("max_tokens", cli.positive_int, "most tokens of the training row: at most the training's cutoff_len"),
        ("max_repeats", cli.positive_int, "times that a sentence or a run of words may appear"),
        ("max_compression", float, "times that zlib may shrink the reasoning"),
        ("max_foreign", float, "share of letters of another script, 0 to 1"),
        ("max_overlap", float, "share of a question's n-grams in one test question that makes it contaminated"),
        ("max_similarity", float, "Jaccard similarity on 3-word runs that makes a sample a duplicate of a kept one"),
    ):
        value = getattr(Parameters, name)
        if isinstance(value, tuple):
            add(f"--{name}", nargs="*", type=kind, default=list(value), metavar="PHRASE", help=text)
        else:
            text += "" if value is None else f", default {value:g}"
            add(f"--{name}", type=kind, default=value, metavar="X", help=text)
    text = "also reject running totals, `12 - 3 = 9 * 5 = 45`, where each = goes on from the last value"
    add("--reject_running_totals", action="store_true", help=text)
    add("--test_paths", nargs="*", type=Path, default=[], metavar="JSONL", help="test problems, kept out of training")
    add("--ngram", type=cli.positive_int, default=NGRAM, metavar="N", help=f"words of an n-gram, default {NGRAM}")
    text = "texts that a rule must keep or reject, tried with these parameters at the start"
    add("--examples", nargs="*", default=[], metavar="'RULE keep|reject: TEXT'", help=text)
    return parser


def read_options(doc: str | None, argv: list[str] | None) -> FilterOptions:
    """Reads and checks the command line. Raises UserError for flags that contradict each other."""
    return options_of(build_parser(doc), argv)


def options_of(parser: cli.StageParser, argv: list[str] | None) -> FilterOptions:
    """As `read_options`, with a parser of `build_parser`."""
    flags = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(parser.parse(argv)).items()
    }
    if flags["max_tokens"] is not None and flags["student_model"] is None:
        raise UserError("--max_tokens needs --student_model, whose tokenizer counts")
    refuse_repeated(flags["input_path"])
    flags["dataset_dir"] = flags["dataset_dir"] or flags["output_path"].parent / "datasets"
    flags["sets"] = parse_sets(flags["sets"])
    for declared in flags["sets"].values():
        if declared.aligned(flags["select"]) and flags["student_model"] is None:
            raise UserError(f"set {declared.name}: aligned needs --student_model, whose distribution decides")
    parameters = Parameters(**{item.name: flags[item.name] for item in fields(Parameters)})
    own = {item.name: flags[item.name] for item in fields(FilterOptions) if item.name != "parameters"}
    return FilterOptions(**own, parameters=parameters)


def preset_options(preset: Path, refuse: Callable[[str], NoReturn] | None = None) -> FilterOptions:
    """The flags that a preset's filter.yaml gives, with no input and output. `refuse` replaces the parser's `error`."""
    parser, config = build_parser(None), str(preset / "filter.yaml")
    if refuse:
        parser.error = refuse
    return options_of(parser, ["--config", config, "--input_path", "none", "--output_path", "none"])


def unfillable_sets(preset: Path) -> dict[str, str]:
    """Set -> reason, for the sets of a preset's filter.yaml that its teacher.yaml cannot fill. What is faulty is left out."""
    usual = yaml_file.read_yaml(preset / "teacher.yaml").get("num_samples", (1, 1))
    numbers = [entry.get("num_samples", usual)[0] for entry in yaml_file.rounds_of(preset / "teacher.yaml")]
    if numbers != [1]:
        return {}
    reason = "a pair needs two samples of a problem, and teacher.yaml asks for one; set num_samples: 2 there"
    sets = []
    for text, _ in yaml_file.listed(preset / "filter.yaml", "sets"):
        with suppress(ValueError):
            sets.append(parse_set(str(text)))
    return {declared.name: reason for declared in sets if declared.ranking}


def empty_sets(run: Path) -> dict[str, str]:
    """Set -> reason, for the sets that got no row when the filter ran; none before."""
    manifest = path_for(run / "kept.jsonl")
    sizes = read_json(manifest)["counts"].get("training_sets", {}) if manifest.is_file() else {}
    reason = f"no row of {run / 'kept.jsonl'} fits it, so nothing can be trained on it; for pairs, let the teacher sample more"
    return {name: reason for name, size in sizes.items() if not size}


def check_examples(options: FilterOptions) -> None:
    """Tries every example, the rules' own and the configured ones. Raises UserError naming file and line."""
    rules.check_rules()
    lines = yaml_file.item_lines(options.config, "examples") if options.config else []
    for number, text in enumerate(options.examples):
        place = f"{options.config}:{lines[number]}" if number < len(lines) else f"--examples, number {number + 1}"
        head, colon, response = text.partition(":")
        words = head.split()
        if not colon or len(words) != 2 or words[0] not in rules.RULES or words[1] not in ("keep", "reject"):
            raise UserError(
                f"{place}: an example is written 'RULE keep: TEXT' or 'RULE reject: TEXT'; rules are "
                + ", ".join(rules.RULES)
            )
        example = rules.Example(response.strip(), words[1] == "keep", {})
        rules.check_example(words[0], example, options.parameters, place)
