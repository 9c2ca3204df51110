"""The command line of stage 2: every parameter of every rule, and the check of its rules' examples."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.filtering import rules
from cotkit.filtering.records import BANNED_PHRASES, TASK_TALK, Parameters
from cotkit.filtering.selection import SELECTIONS
from cotkit.filtering.training_sets import BUILT_IN, parse_set

NGRAM = 8  # words; runs that long are shared by chance in hardly any two questions


def build_parser(doc: str | None) -> cli.StageParser:
    parser = cli.StageParser(doc, "limit", "seed", "dry_run", "overwrite")
    stage = parser.add_argument_group("stage 2")
    stage.add_argument(
        "--input_path", nargs="+", type=Path, required=True, metavar="JSONL", help="teacher rows, one file a round"
    )
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="kept rows")
    stage.add_argument(
        "--dataset_dir", type=Path, metavar="DIR", help="training sets (default: datasets beside the output)"
    )
    stage.add_argument(
        "--dev_path", type=Path, metavar="JSONL", help="problems for the set gold_dev, to watch the loss"
    )
    stage.add_argument("--dev_limit", type=cli.positive_int, metavar="N", help="only the first N of them")
    stage.add_argument("--problems_path", type=Path, metavar="JSONL", help="problems; a row of another id is refused")
    stage.add_argument(
        "--only_retry", action="store_true", help="write only the problems without a kept sample, to --output_path"
    )
    stage.add_argument("--student_model", metavar="NAME", help="whose tokenizer counts `tokens`")
    stage.add_argument(
        "--workers", type=cli.positive_int, metavar="N", help="processes (default: all cores, 1 if small)"
    )
    _add_sets(parser)
    _add_rules(parser)
    return parser


def _add_sets(parser: cli.StageParser) -> None:
    sets = parser.add_argument_group("training sets")
    sets.add_argument(
        "--sets",
        nargs="+",
        type=parse_set,
        metavar="SET",
        default=[parse_set("gold"), parse_set("distilled")],
        help=f"of {', '.join(BUILT_IN)}, or NAME = SOURCE [SELECTION] [CAP] [+ ...] (default gold distilled)",
    )
    sets.add_argument(
        "--select", choices=SELECTIONS, default="first", help="of a question's kept samples (default first)"
    )
    sets.add_argument("--max_per_question", type=cli.positive_int, metavar="N", help="of them (default: 1 or all)")
    sets.add_argument("--keep_thinking", action="store_true", help="put the think block into the target")


def _add_rules(parser: cli.StageParser) -> None:
    rule = parser.add_argument_group("rules")
    default = Parameters
    rule.add_argument("--skip_rules", nargs="*", choices=rules.REASONS, default=[], metavar="RULE", help="not applied")
    rule.add_argument("--banned", nargs="*", default=list(BANNED_PHRASES), metavar="PHRASE", help="whole words")
    rule.add_argument("--task_talk", nargs="*", default=list(TASK_TALK), metavar="PHRASE", help="whole words")
    rule.add_argument("--min_words", type=int, default=default.min_words, metavar="N", help="of reasoning, default 3")
    rule.add_argument("--max_words", type=int, default=default.max_words, metavar="N", help="of reasoning, default 300")
    rule.add_argument(
        "--max_tokens",
        type=cli.positive_int,
        metavar="N",
        help="of the whole training row; at most the training's cutoff_len, since longer rows would be cut there",
    )
    for name, kind, text in (
        ("max_repeats", cli.positive_int, "times that a sentence or a run of words may stand"),
        ("max_compression", float, "times that zlib may shrink the reasoning"),
        ("max_foreign", float, "share of letters of another script, 0 to 1"),
        ("step_tolerance", float, "relative, for a fraction rounded to a whole number"),
        ("max_overlap", float, "share of a question's n-grams in one test question from which it is contaminated"),
        ("max_similarity", float, "of two kept samples of a question, Jaccard on runs of 3 words"),
    ):
        value = getattr(default, name)
        rule.add_argument(f"--{name}", type=kind, default=value, metavar="X", help=f"{text}, default {value:g}")
    rule.add_argument("--test_paths", nargs="*", type=Path, default=[], metavar="JSONL", help="test problems, kept out")
    rule.add_argument("--ngram", type=cli.positive_int, default=NGRAM, metavar="N", help=f"words, default {NGRAM}")
    rule.add_argument(
        "--examples",
        nargs="*",
        default=[],
        metavar="'RULE keep|reject: TEXT'",
        help="tried with these parameters at start",
    )


def parameters_of(args: argparse.Namespace) -> Parameters:
    """The rules' parameters; lists become tuples, since the rules cache by them."""
    given = {item.name: getattr(args, item.name) for item in fields(Parameters)}
    return Parameters(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def check(args: argparse.Namespace, parameters: Parameters) -> None:
    """Tries every example, the rules' own and the configured ones. Raises UserError naming file and line."""
    rules.check_rules()
    for number, text in enumerate(args.examples):
        place = _place(args.config, number)
        head, colon, response = text.partition(":")
        words = head.split()
        if not colon or len(words) != 2 or words[0] not in rules.RULES or words[1] not in ("keep", "reject"):
            known = ", ".join(rules.RULES)
            raise UserError(
                f"{place}: an example is written 'RULE keep: TEXT' or 'RULE reject: TEXT'; rules are {known}"
            )
        example = rules.Example(response.strip(), words[1] == "keep", {})
        rules.check_example(words[0], example, parameters, place)


def _place(config: Path | None, number: int) -> str:
    """``file:line`` of an example, where it stands in the configuration."""
    lines = cli.item_lines(config, "examples") if config else []
    return f"{config}:{lines[number]}" if number < len(lines) else f"--examples, number {number + 1}"
