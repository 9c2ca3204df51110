"""export.py --gguf: llama.cpp's programs are found and called as they want to be; stand-ins take their place here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, SMOLLM2, make_tokenizer

from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json, write_json_atomic
from cotkit.publishing import gguf_file
from cotkit.publishing.model_folder import correct_byte_fallback

export = import_module("scripts.export")

# Like the converter of llama.cpp, it takes a model's folder and fails if that lacks something.
CONVERTER = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
args = parser.parse_args()
for name in ("config.json", "model.safetensors", "tokenizer.json"):
    assert (args.model / name).is_file(), name
args.outfile.write_text(f"GGUF {args.outtype}", encoding="utf-8")
"""
QUANTIZER = '#!/bin/sh\n[ "$3" = Q4_K_M ] || { echo "unknown type $3" >&2; exit 1; }\necho "$(cat "$1") $3" > "$2"\n'


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a built checkout of llama.cpp, which $LLAMA_CPP names."""
    folder = tmp_path / "llama cpp"
    write_program(folder / "convert_hf_to_gguf.py", CONVERTER)
    write_program(folder / "build/bin/llama-quantize", QUANTIZER)
    monkeypatch.setenv("LLAMA_CPP", str(folder))
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What the conversion needs of an exported model."""
    folder = tmp_path / "export/distilled"
    folder.mkdir(parents=True)
    make_tokenizer(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("", encoding="utf-8")
    (folder / "Modelfile").write_text('FROM .\nTEMPLATE """FROM ."""\n', encoding="utf-8")
    return folder


def test_the_converter_is_found_on_path(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(checkout), prepend=":")
    assert gguf_file.find(None, "x").converter == checkout / "convert_hf_to_gguf.py"


@pytest.mark.parametrize(("quantization", "name"), [(None, "distilled.gguf"), ("Q4_K_M", "distilled-Q4_K_M.gguf")])
def test_the_modelfile_points_at_the_file(checkout: Path, exported: Path, quantization: str | None, name: str):
    made = gguf_file.write(exported, gguf_file.find(quantization, "x"))
    assert made == exported / name
    assert made.read_text(encoding="utf-8").split() == ["GGUF", "f16", *([quantization] if quantization else [])]
    assert (exported / "Modelfile").read_text(encoding="utf-8") == f'FROM ./{name}\nTEMPLATE """FROM ."""\n'
    assert not list(exported.parent.glob(".export-*"))
    assert gguf_file.write(exported, gguf_file.find(None, "x")).name == "distilled.gguf"  # and again
    assert (exported / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./distilled.gguf\nTEMPLATE")


def test_a_failed_conversion_says_the_command_and_changes_nothing(checkout: Path, exported: Path):
    (exported / "config.json").unlink()
    before = sorted(exported.iterdir())
    with pytest.raises(UserError, match=r"exit code 1 \(AssertionError: config.json\): \S+ '.*convert_hf_to_gguf.py'"):
        gguf_file.write(exported, gguf_file.find(None, "x"))
    assert sorted(exported.iterdir()) == before and not list(exported.parent.glob(".export-*"))
    (exported / "config.json").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"exit code 1 \(unknown type Q9\): "):
        gguf_file.write(exported, gguf_file.find("Q9", "x"))
    assert (exported / "Modelfile").read_text(encoding="utf-8").startswith("FROM .\n")


def test_without_the_programs_the_two_commands_are_said_before_the_run_is_read(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = [str(tmp_path / "no run"), "distilled", "--gguf"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["scripts/export.py", *words])
    again = re.escape(shlex.join(["python", "scripts/export.py", *words]))
    (checkout / "build/bin/llama-quantize").unlink()
    with pytest.raises(
        UserError,
        match=r"^--quantize: no llama-quantize on PATH or below LLAMA_CPP=.*; run cmake -S '\S+ cpp' -B '\S+ cpp'/build && "
        rf"make -C '\S+ cpp'/build llama-quantize, then LLAMA_CPP='\S+ cpp' {again}$",
    ):
        export.main([*words, "--quantize", "Q4_K_M"])
    monkeypatch.delenv("LLAMA_CPP")
    with pytest.raises(
        UserError,
        match=r"^--gguf: no convert_hf_to_gguf.py on PATH, and LLAMA_CPP names no checkout; run git clone --depth 1 "
        rf"https://github.com/ggml-org/llama.cpp, then LLAMA_CPP=llama.cpp {again}$",
    ):
        export.main(words)


@pytest.mark.parametrize(
    "words", [["m", "--gguf", "--adapter"], ["--data", "s", "--gguf"], ["m", "--quantize", "Q8_0"]]
)
def test_what_does_not_go_with_gguf_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        export.main(["run", *words])
    assert ended.value.code == 2 and "--gguf" in capsys.readouterr().err


def test_a_byte_level_tokenizer_has_no_byte_fallback_and_writes_the_same_tokens(tmp_path: Path):
    from transformers import AutoTokenizer

    texts = ["Tom has 3 apples.\n#### 7", "1 ½ €, naïve 🍎", "<|im_start|>user\n"]
    before = [make_tokenizer(tmp_path)(text)["input_ids"] for text in texts]
    path = tmp_path / "tokenizer.json"
    saved = read_json(path)
    saved["model"]["byte_fallback"] = True
    write_json_atomic(path, saved)
    correct_byte_fallback(tmp_path)
    assert read_json(path)["model"]["byte_fallback"] is False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert [tokenizer(text)["input_ids"] for text in texts] == before


def test_a_tokenizer_with_byte_tokens_keeps_its_fallback(tmp_path: Path):
    kept = {"model": {"vocab": {"<0x00>": 0}, "byte_fallback": True}, "pre_tokenizer": None}
    write_json_atomic(tmp_path / "tokenizer.json", kept)
    correct_byte_fallback(tmp_path)
    assert read_json(tmp_path / "tokenizer.json") == kept


@pytest.mark.slow
@pytest.mark.skipif(
    not SMOLLM2.is_dir() or not gguf_file.program("convert_hf_to_gguf.py"),
    reason="needs llama.cpp and the CPU preset's model",
)
def test_the_real_converter_takes_the_tokenizer_of_the_cpu_preset_for_what_it_is(tmp_path: Path):
    from gguf import GGUFReader

    folder = tmp_path / "model"
    shutil.copytree(SMOLLM2, folder, copy_function=os.symlink)
    (folder / "Modelfile").write_text("FROM .\n", encoding="utf-8")
    made = gguf_file.write(folder, gguf_file.find(None, "x"))
    fields = GGUFReader(made).fields
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.tokens"].contents(1) == "<|im_start|>"


@pytest.mark.slow
def test_an_export_that_is_there_gets_its_file(run: Path, checkout: Path, capsys: pytest.CaptureFixture[str]):
    assert export.main([str(run), "distilled"]) == 0
    folder = run / "export/distilled"
    weights = (folder / "model.safetensors").stat()
    assert export.main([str(run), "distilled", "--gguf"]) == 0
    assert f"{folder}/distilled.gguf: complete; Modelfile points at it" in capsys.readouterr().out
    assert (folder / "model.safetensors").stat().st_ino == weights.st_ino
    assert (folder / "distilled.gguf").read_text(encoding="utf-8") == "GGUF f16"
