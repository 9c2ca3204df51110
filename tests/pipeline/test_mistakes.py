"""Mistakes of a hand at the command line: each is one line that says what to do, its exit code, and nothing begun or lost.

Mistakes in a preset's YAMLs are in test_check_preset.py, damaged files in tests/faults.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, SMOLLM2, problem, run_script, write_rows

pytestmark = pytest.mark.slow
FAKE = "--backend fake --model_name fake"
TRAIN = "--input_path data/gsm8k/train.jsonl"
TEACHER = f"teacher_cot.py {FAKE} {TRAIN} --output_path out.jsonl"
INFER = "infer_parallel.py --backend fake --base_model fake --dataset gsm8k --output_path out.jsonl"
SCORE = "score.py --dataset gsm8k --pred_path run/predictions/gsm8k/baseline.jsonl"
FILTER = "filter_teacher_cot.py --input_path run/teacher.jsonl --output_path out.jsonl"
SERVED = f"teacher_cot.py --backend openai --model_name m {TRAIN} --output_path out.jsonl"
REAL = f"teacher_cot.py {TRAIN} --output_path out.jsonl"

# (what is wrong, the command, exit code, what the line says)
MISTAKES = [
    # paths and folders
    ("input", TEACHER.replace("train.jsonl", "tran.jsonl"), 1, "data/gsm8k/tran.jsonl: cannot be read (No such file"),
    ("input folder", TEACHER.replace("gsm8k/train.jsonl", "gsm8k"), 1, "data/gsm8k: cannot be read (Is a directory)"),
    ("output folder", TEACHER.replace("out.jsonl", "/proc/x/o.jsonl"), 1, "/proc/x: the folder cannot be made"),
    ("output is a folder", TEACHER.replace("out.jsonl", "data"), 1, "data: exists, but data.manifest.json does not"),
    ("output is a file's child", TEACHER.replace("out.jsonl", "notes.txt/o.jsonl"), 1, "a file is in the way"),
    (
        "output is the input",
        TEACHER.replace("out.jsonl", "data/gsm8k/train.jsonl"),
        1,
        "is an input and the output too",
    ),
    ("output is the input again", f"{FILTER} --overwrite".replace("out.jsonl", "run/teacher.jsonl"), 1, "an input and"),
    (
        "input twice",
        FILTER.replace("run/teacher.jsonl", "run/teacher.jsonl run/../run/teacher.jsonl"),
        1,
        "given twice",
    ),
    ("another kind of file", FILTER.replace("run/teacher", "data/gsm8k/train"), 1, "field 'sample' is missing; it has"),
    ("predictions", SCORE.replace("baseline", "baselin"), 1, "baselin.jsonl: cannot be read (No such file"),
    ("adapter", f"{INFER} --lora_path run/train/x", 1, "holds no adapter_config.json; give --lora_path the output_dir"),
    ("data root", f"{INFER} --data_root daten", 1, "prepare_data.py --dataset gsm8k --data_root daten"),
    ("run", "scripts/compare.py rum", 1, "rum: no such folder; the folder of a run is expected"),
    (
        "run without scores",
        "scripts/compare.py data",
        1,
        "no predictions/<dataset>/<method>.summary.json; run score.py",
    ),
    ("run without comparison", "scripts/report.py run", 1, "holds no comparison.json; run scripts/compare.py first"),
    (
        "preset",
        "scripts/check_preset.py configs/mine",
        1,
        "configs/mine: no such folder; presets are the folders below",
    ),
    ("config", f"{TEACHER} --config teacher.yml", 1, "teacher.yml: cannot be read (No such file"),
    ("method's YAML", "scripts/train.sh distilled.yaml", 1, "distilled.yaml: no such file; the YAML of a method"),
    # flags, types and ranges
    (
        "flag",
        f"{TEACHER} --temprature 1",
        2,
        "unknown argument --temprature (did you mean '--temperature'?); see --help",
    ),
    ("value missing", f"{TEACHER} --limit", 2, "argument --limit: expected one argument; see --help"),
    ("type", f"{TEACHER} --temperature hot", 2, "argument --temperature: invalid float value: 'hot'"),
    ("range", f"{TEACHER} --limit 0", 2, "argument --limit: must be at least 1, found 0"),
    ("negative", f"{TEACHER} --temperature=-1", 1, "--temperature and --top_k at least 0"),
    ("share", f"{TEACHER} --top_p 2", 1, "--top_p must be in (0, 1]"),
    ("choice", f"{TEACHER} --mode rewriting", 2, "invalid choice: 'rewriting' (choose from 'rewrite', 'solve')"),
    ("greedy samples", f"{TEACHER} --num_samples 4", 1, "needs --temperature above 0"),
    ("set", f"{FILTER} --sets golden", 2, "'golden' is not a built-in set (gold,"),
    ("rule", f"{FILTER} --skip_rules lenght", 2, "invalid choice: 'lenght'"),
    ("flag without its partner", f"{FILTER} --max_tokens 300", 1, "--max_tokens needs --student_model"),
    ("rules too strict", f"{FILTER} --min_words 500", 1, "no rows are left; the counts above show which rule"),
    ("protocol", f"{SCORE} --protocol orignal", 2, "invalid choice: 'orignal' (choose from"),
    ("override", "scripts/train.sh PRESET/train/distilled.yaml learning_rate 3", 1, "an override is written key=value"),
    ("shell flag", "scripts/pipeline.sh --limt 3", 2, "unknown option --limt; known are --limit N"),
    # models, servers, data sets
    ("model", f"{REAL} --model_name Qwen3-8B", 1, "no such model folder; a hub model is named owner/name"),
    ("model folder", f"{REAL} --model_name data", 1, "data: holds no config.json, so it is not a model folder"),
    ("backend", f"{TEACHER} --backend vlm", 2, "invalid choice: 'vlm' (choose from 'transformers',"),
    ("no server", SERVED, 1, "--backend openai needs --base_url, such as http://localhost:8000/v1"),
    ("server without http", f"{SERVED} --base_url localhost:8000", 1, "an address such as http://localhost:8000/v1 is"),
    (
        "port",
        f"{SERVED} --base_url http://localhost:80000/v1",
        1,
        "an address such as http://localhost:8000/v1 is expected",
    ),
    ("data set", INFER.replace("gsm8k", "gsm8l"), 1, "data/gsm8l/test.jsonl: not found; prepared in data: gsm8k"),
    ("data set to prepare", "scripts/prepare_data.py --dataset gsm9k", 2, "'gsm9k' (did you mean 'gsm8k'?)"),
    ("split", f"{INFER} --split dev", 1, "data/gsm8k/dev.jsonl: not found; the splits of gsm8k are test, train"),
    ("split of the scores", f"{SCORE} --split train", 1, "are --split and --limit those of the predictions?"),
    (
        "own problems",
        "scripts/prepare_data.py --name b --input b.csv --kind number",
        1,
        "b.csv: not found; a file, a folder",
    ),
    (
        "reruns with fewer",
        f"{TEACHER.replace('out.jsonl', 'run/teacher.jsonl')} --limit 2",
        1,
        "6 rows -> 2 (a smaller --limit?)",
    ),
    ("id", "scripts/trace.py gsm8k-train-99999 --run run", 1, "gsm8k-train-99999: not found in 3 files"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with problems, teacher rows and predictions."""
    folder = tmp_path_factory.mktemp("by hand")
    for split in ("train", "test"):
        rows = [problem(number, id=f"gsm8k-{split}-{number:05d}", split=split) for number in range(6)]
        write_rows(folder / f"data/gsm8k/{split}.jsonl", rows)
    (folder / "notes.txt").write_text("mine\n", encoding="utf-8")
    started = (
        TEACHER.replace("out.jsonl", "run/teacher.jsonl"),
        INFER.replace("out.jsonl", "run/predictions/gsm8k/baseline.jsonl"),
    )
    for command in started:
        assert run(command, folder).returncode == 0
    return folder


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script, which is named from the repository, in another folder."""
    script, *words = command.replace("PRESET", str(ROOT / "configs/smollm2_cpu")).split()
    if script.endswith(".py"):
        return run_script(ROOT / script, *words, check=False, cwd=folder, **environment)
    return subprocess.run(
        ["bash", ROOT / script, *words],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def contents(folder: Path) -> dict[str, str]:
    """Every file by its path, with a hash. A lock file is no content."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("command", "code", "says"), [one[1:] for one in MISTAKES], ids=[one[0] for one in MISTAKES])
def test_a_mistake_is_one_line_and_loses_nothing(folder: Path, command: str, code: int, says: str):
    before = contents(folder)
    done = run(command, folder)
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert says in done.stderr, done.stderr
    after = contents(folder)
    if "--min_words" in command:  # the rows must be judged first, to know that all are rejected
        assert before.items() <= after.items()
    else:
        assert before == after


def test_there_are_enough_of_them():
    assert len(MISTAKES) >= 45


def test_a_command_in_another_folder_is_told_where_its_files_are(tmp_path: Path):
    """The presets' paths begin in the project's folder."""
    config = ROOT / "configs/smollm2_cpu/filter.yaml"
    done = run(f"filter_teacher_cot.py --config {config} --input_path a --output_path b", tmp_path)
    if SMOLLM2.is_dir():
        assert done.stderr.endswith(f"no such model folder; it exists in {ROOT}, and paths are looked up in the working "
                                    f"directory: cd {ROOT}\n")  # fmt: skip
    done = run("scripts/check_preset.py configs/smollm2_cpu", tmp_path)
    assert done.stderr == (
        f"error: configs/smollm2_cpu: no such folder; it exists in {ROOT}, and paths are looked up in the working directory: "
        f"cd {ROOT}\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_another_locale_changes_nothing(folder: Path, tmp_path: Path, locale: str):
    shutil.copytree(folder / "data", tmp_path / "data")
    assert run(TEACHER, tmp_path, LC_ALL=locale, PYTHONUTF8="0").returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (folder / "run/teacher.jsonl").read_bytes()


def test_an_old_python_is_named(tmp_path: Path):
    """A real one where there is one; tests/pipeline/test_shell.py tests the set-up with one."""
    old = next((path for path in Path.home().glob(".pyenv/versions/3.9.*/bin/python")), None) or shutil.which(
        "python3.9"
    )
    if old is None:
        pytest.skip("there is no Python 3.9 here")
    done = subprocess.run([old, ROOT / "teacher_cot.py"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("error: Python 3.11 or newer is needed, this is 3.9.") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input_path: ~\n", "t.yaml:3: input_path has no value, and needs one; a lone ~ or null is none"),
        ("input_path: ~/nothing.jsonl\n", f"error: {Path.home()}/nothing.jsonl: cannot be read"),
        ("input_path: data/gsm8k/train.jsonl\nlimit: [3]\n", "t.yaml:4: limit: a single value is expected, found [3]"),
    ],
)
def test_values_of_a_file_of_defaults(folder: Path, tmp_path: Path, text: str, says: str):
    (tmp_path / "t.yaml").write_text(f"backend: fake\nmodel_name: fake\n{text}", encoding="utf-8")
    done = run(f"teacher_cot.py --config {tmp_path / 't.yaml'} --output_path out.jsonl", folder)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_data_set_needs_no_brackets(tmp_path: Path):
    (tmp_path / "data.yaml").write_text("dataset: gsm_symbolic\n", encoding="utf-8")
    done = run("scripts/prepare_data.py --config data.yaml --dry_run", tmp_path)
    assert done.returncode == 0 and "data/gsm_symbolic/train.jsonl would get" in done.stdout
