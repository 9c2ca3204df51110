from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, refused, run_script

from cotkit.core import cli
from cotkit.core.errors import UserError

SCRIPTS = ["teacher_cot.py", "filter_teacher_cot.py", "infer_parallel.py", "score.py"]
SCRIPTS += [str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("**/*.py")]
STAGE_OF = {"data": "scripts/prepare_data.py", "teacher": "teacher_cot.py", "filter": "filter_teacher_cot.py"}
STAGE_OF |= {"infer": "infer_parallel.py", "critic": "scripts/critic.py", "score": "score.py"}
STAGE_OF |= {"compare": "scripts/compare.py"}
# train.yaml is read by preset.py and train.sh: tests/training/test_train.py.
STAGE_FILES = sorted(path for path in ROOT.glob("configs/*/*.yaml") if path.stem != "train")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_without_importing_an_engine(script: str):
    """The heavy packages take seconds to import; none may be needed to show a script's help."""
    heavy = (
        "torch",
        "transformers",
        "sympy",
        "math_verify",
        "datasets",
        "scipy",
        "matplotlib",
        "llamafactory",
        "openai",
    )
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert done.stdout.rstrip().endswith("HEAVY []")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_1(script: str):
    """Also for --help, and whether Python buffers stdout or not."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for environment in (buffered, {**buffered, "PYTHONUNBUFFERED": "1"}):
        with open("/dev/full", "wb") as full:
            command = [sys.executable, script, "--help"]
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, b"error: output: No space left on device\n")


@pytest.mark.parametrize("script", [script for script in SCRIPTS if "/" not in script])
def test_a_bare_python_is_told_what_to_activate(script: str, tmp_path: Path):
    """The stages start with nothing installed. Without PyYAML, --config says in one line what to do."""
    config = write(tmp_path / "c.yaml", "limit: 1\n")
    command = [sys.executable, "-S", "-E", ROOT / script, "--config", config]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    refused(done, "the package 'yaml' is not installed", "bash scripts/setup.sh", "source .venv/bin/activate")


@pytest.mark.parametrize("config", STAGE_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_stage_yaml_is_accepted_by_its_script(config: Path, tmp_path: Path):
    """An unknown key or a bad value would be refused with the file's name. Only the missing data may be refused."""
    test_set = ["--dataset", "gsm8k", "--data_root", tmp_path]
    words = {
        "data": ["--data_root", tmp_path, "--source", tmp_path],
        "teacher": ["--input_path", tmp_path / "none", "--output_path", tmp_path / "o"],
        "filter": ["--input_path", tmp_path / "none", "--output_path", tmp_path / "o"],
        "infer": [*test_set, "--output_path", tmp_path / "o"],
        "score": [*test_set, "--pred_path", "x"],
        "critic": [*test_set, "--pred_path", "x"],
        "compare": [tmp_path],
    }
    done = run_script(STAGE_OF[config.stem], "--config", config, *words[config.stem], "--dry-run", check=False)
    assert "Traceback" not in done.stderr
    assert f"{config}:" not in done.stderr
    assert done.returncode != 2, done.stderr


def make_parser(**chosen: str) -> cli.StageParser:
    parser = cli.StageParser("doc", "dry_run", **chosen)
    parser.add_argument("--size", type=cli.positive_int, default=1)
    parser.add_argument("--mode", choices=("a", "b"), default="a")
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--needed", required=True)
    return parser


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    config = write(tmp_path / "c.yaml", "size: 3\nmode: b\nneeded: x\nnames: [p, q]\n")
    args = make_parser().parse(["--config", str(config), "--size", "5"])
    assert (args.size, args.mode, args.needed, args.names) == (5, "b", "x", ["p", "q"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("needed: x\nsizee: 3\n", ":2: unknown key 'sizee'; did you mean 'size'?"),
        ("needed: x\nsize: big\n", ":2: size: 'big' does not fit"),
        ("needed: x\nsize: 0\n", ":2: size: 0 does not fit (must be at least 1"),
        ("needed: x\nmode: c\n", ":2: mode: 'c' is not one of a, b"),
        ("needed: [x]\n", ":1: needed: a single value is expected"),
        ("dry-run: maybe\nneeded: x", ":1: dry-run must be true or false"),
        ("size: 1\nsize: 2\n", ":2: key 'size' appears twice"),
        ("{size: 1, size: 2, needed: x}\n", ":1: key 'size' appears twice"),
        ("size: {x: 1}\nneeded: x\n", ":1: size: a single value is expected"),
        ("- a\n", ":1: `key: value` lines are expected"),
        ("a: [\n", "not valid YAML"),
        ("needed: !!python/object/apply:os.system [touch canary]\n", "not valid YAML"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError) as refusal:
        make_parser().parse(["--config", str(config)])
    assert says in str(refusal.value)
    assert not (tmp_path / "canary").exists()


def of_dataset(config: Path, dataset: str) -> int | None:
    parser = make_parser(keyed_by=cli.KeyFlag("dataset", "root", lambda root: {"gsm8k", "amc23", root.name}))
    parser.add_argument("--dataset")
    parser.add_argument("--root", type=Path, default=Path("aime"))
    size: int = parser.parse(["--config", str(config), "--needed", "x", "--dataset", dataset]).size
    return size


def test_a_value_may_differ_between_data_sets(tmp_path: Path):
    config = write(tmp_path / "c.yaml", "size: {gsm8k: 5, amc23: 7}\n")
    assert [of_dataset(config, name) for name in ("gsm8k", "amc23", "aime")] == [5, 7, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size: {gsm8k: 5, amc: 7}\n", ":1: size: no dataset 'amc'; did you mean 'amc23'?"),
        ("size: {gsm8k: 5, amc23: many}\n", ":1: size: 'many' does not fit"),
    ],
)
def test_every_data_set_s_value_is_checked(tmp_path: Path, text: str, says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        of_dataset(write(tmp_path / "c.yaml", text), "gsm8k")


def test_a_missing_config_is_one_line():
    refused(run_script("teacher_cot.py", "--config", "none.yaml", check=False), "none.yaml", "cannot be read")


def test_bad_input_is_refused_before_anything_heavy_is_loaded(tmp_path: Path):
    begun = time.monotonic()
    words = ["--input_path", tmp_path / "no", "--output_path", tmp_path / "o", "--model_name", "x/y"]
    done = run_script("teacher_cot.py", *words, check=False)
    refused(done, "no: cannot be read")
    assert time.monotonic() - begun < 5  # importing torch and transformers alone takes longer on a busy machine


def test_presets_share_their_methods():
    methods = {
        path.parent.name: {method.stem for method in path.parent.glob("train/*.yaml")}
        for path in ROOT.glob("configs/*/data.yaml")
    }
    shared = {"strong_baseline", "teacher_raw", "distilled", "rejection_sampled", "mixed", "dpo"}
    distributions = {"logit_kd", "on_policy", "self_taught", "sft_continued", "aligned"}
    of_the_study = {"complete", "expert", "gold_split", "more_questions", "more_logits", "self_taught_placebo"}
    assert methods == {
        "smollm2_cpu": shared,
        "qwen2_1.5b": shared,
        "qwen2_1.5b_tuned": shared | distributions,
        "smollm2_study": shared | distributions | of_the_study,
    }
    for path in ROOT.glob("configs/*/train/*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
