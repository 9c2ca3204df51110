"""Stage 3 for `stage: distill`: trains a student towards a teacher's whole distribution instead of its texts.

Reads   a method's YAML (docs/DISTILLATION.md explains its keys) and its training sets: rows for LLaMA-Factory
        {"system": "...", "instruction": "...", "input": "", "output": "...\\n#### 18"}
Writes  <output_dir>: an adapter as LLaMA-Factory writes it, checkpoints, trainer_log.jsonl, all_results.json

    bash scripts/train.sh configs/smollm2_study/train/logit_kd.yaml           checks, records and resumes; use this one
    python scripts/distill.py configs/smollm2_study/train/logit_kd.yaml max_steps=2      only trains

Before it trains, it measures how many held-out questions student and teacher solve.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cotkit.core import cli, machine
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, write_json_atomic
from cotkit.training import preflight
from cotkit.training.config import ACCURACIES, TrainConfig, read_config
from cotkit.training.distill_data import DistillRow, TeacherSide, read_rows
from cotkit.training.prompt_parity import Finding, ParityGate

READS = {
    "student_prompt": "by itself",
    "reference": "with the reference solution",
    "other_reference": "with another question's solution",
}
MEASURED = 64  # held-out questions that student and teacher answer before the training


def read_checked(gate: ParityGate, side: TeacherSide, key: str) -> list[DistillRow]:
    """The rows of the sets that `key` names. Raises UserError for the first row that could not be distilled."""
    rows = []
    for row in read_rows(gate, side, gate.config.values.get(key), key):
        if isinstance(row, Finding):
            raise UserError(str(row))
        rows.append(row)
    return rows


def gate_of(config: TrainConfig) -> ParityGate:
    """The parity gate with the thinking mode in which the training prompts are served."""
    gate = ParityGate(config, thinking=False)
    name, path = next(iter(config.training_files().items()))
    first = next(gate.sequences(name, path))
    gate.thinking = not isinstance(first, Finding) and gate.served_prompt(first.row) != first.ids[: first.start]
    return gate


def make_trainer(config: TrainConfig) -> Any:
    """The trainer, with student and teacher loaded."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.callbacks import LogCallback

    from cotkit.training.distill_trainer import DistillTrainer, StepsLine, Teacher, check_head
    from cotkit.training.safeguards import DivergenceGuard, load_in_float32, resume_on_numbered_cpus

    options, gate = preflight.distill_options(config), gate_of(config)
    side = TeacherSide(config, options, gate.serving)
    sets = {key: read_checked(gate, side, key) for key in ("dataset", "eval_dataset")}
    try:
        model_args, data_args, training_args, finetuning_args, _ = get_train_args(config.llamafactory())
    except ValueError as error:  # what it refuses only on this machine, such as an output folder that is not empty
        raise UserError(f"{config.path}: LLaMA-Factory refuses it: {error}") from None
    training_args.remove_unused_columns = False  # rows are no columns
    training_args.disable_tqdm = False  # the bar shows the step; without one, every loss would stand alone
    load_in_float32(config.values)
    resume_on_numbered_cpus()
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    get_template_and_fix_tokenizer(tokenizer, data_args)
    model = load_model(tokenizer, model_args, finetuning_args, is_trainable=True).to(training_args.device)
    teacher = Teacher(model, side, config.values.get("adapter_name_or_path"), model_args.compute_dtype)
    check_head(model, str(config.values["model_name_or_path"]))
    check_head(teacher.model, options.teacher)
    return DistillTrainer(
        side,
        teacher,
        options,
        gate.thinking,
        model=model,
        args=training_args,
        processing_class=tokenizer,
        train_dataset=sets["dataset"],
        eval_dataset=sets["eval_dataset"] or None,
        callbacks=[StepsLine(), LogCallback(), DivergenceGuard()],
    )


def measure(trainer: Any) -> Row:
    """Measures and prints the accuracy of student and teacher, and warns of a teacher that is no better."""
    rows, options = (trainer.eval_dataset or [])[:MEASURED], trainer.options
    if not rows:
        print("no eval_dataset: the accuracy of student and teacher is not measured")
        return {}
    found = {"student_accuracy": trainer.accuracy(rows, of_teacher=False)}
    found["teacher_accuracy"] = trainer.accuracy(rows, of_teacher=True)
    reads = READS[options.teacher_reads]
    student, teacher = found.values()
    print(
        f"accuracy on {len(rows)} held-out questions: student {student:.1%}, teacher {teacher:.1%} {reads}", flush=True
    )
    if teacher <= student:
        print(
            f"warning: the teacher is no better than the student ({teacher:.1%} against {student:.1%} of {len(rows)} "
            "held-out questions); distilling from it can hardly help",
            flush=True,
        )
    return found


def train(trainer: Any, plot: bool) -> None:
    """Trains, from the last checkpoint if there is one, and writes what LLaMA-Factory writes."""
    from llamafactory.extras.ploting import plot_loss

    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    if trainer.args.do_eval and trainer.eval_dataset:
        trainer.save_metrics("eval", trainer.evaluate())
    if plot and trainer.is_world_process_zero():
        plot_loss(trainer.args.output_dir, keys=["loss", "eval_loss"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config_path", type=Path, metavar="CONFIG", help="YAML of a method with `stage: distill`")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    import torch

    config = read_config(args.config_path, args.overrides)
    if not config.distills:
        raise UserError(f"{config.where('stage')}: only `stage: distill` is trained here; use scripts/train.sh")
    preflight.check(config)
    if torch.cuda.is_available():
        machine.gpu_of_rank()  # raises for a rank without one
    logging.getLogger("cotkit.generation").setLevel(logging.WARNING)  # statistics of every single decoding
    trainer = make_trainer(config)
    trainer.accelerator.wait_for_everyone()  # each process must have seen the output folder before a file is in it
    if trainer.args.resume_from_checkpoint is None and trainer.is_world_process_zero():
        write_json_atomic(config.output_dir / ACCURACIES, measure(trainer))
    train(trainer, bool(config.values.get("plot_loss")))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
