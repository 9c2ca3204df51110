"""Configurations of the distillation stage: what is refused, the order of methods, their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import distill_tools
from training.distill_tools import Write, script

from cotkit.core.errors import UserError
from cotkit.training import preflight
from cotkit.training.config import methods_of, read_config

folder, write = distill_tools.folder, distill_tools.write


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": None}, "key 'teacher' is missing"),
        ({"kl": "backward"}, "`kl: backward`: must be one of forward, reverse, jsd"),
        ({"kl": "revers"}, "did you mean 'reverse'?"),
        ({"teacher_reads": "solution"}, "must be one of student_prompt, reference"),
        ({"on_policy": 1.5}, "`on_policy: 1.5`: must be a number from 0 to 1"),
        ({"on_policy": True}, "must be a number from 0 to 1"),
        ({"temperature": 0}, "`temperature: 0`: must be a number from 0.01"),
        ({"kl_clip": -1}, "`kl_clip: -1`: must be a number"),
        ({"jsd_beta": 1}, "must be a number from 0.001 to 0.999"),
        ({"max_new_tokens": 2.5}, "must be a whole number"),
        ({"kd_weight": "half"}, "must be a number from 0 to 1"),
        ({"kd_weight": 0.5, "on_policy": 1}, "cross entropy on the student's own samples teaches nothing"),
        ({"finetuning_type": "full"}, "`stage: distill` trains adapters"),
        ({"deepspeed": "x.json"}, "`stage: distill` does not support it"),
        ({"teacher_read": "reference"}, "unknown key 'teacher_read'; did you mean 'teacher_reads'?"),
        ({"teacher": "no/such/folder"}, "`teacher: no/such/folder`: no/such/folder: no such model folder"),
        ({"teacher": "start", "teacher_adapter": "some/folder"}, "some/folder holds no adapter"),
        ({"start_from": "a/b", "adapter_name_or_path": "c/d"}, "start_from and adapter_name_or_path are the same"),
        ({"start_from": "a/b"}, "a/b holds no adapter; train that method first"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_a_model_is_loaded(write: Write, changes: dict[str, Any], says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        script()["main"]([str(write("refused", **changes))])


def test_only_distillation_is_trained_by_this_script_and_only_it_has_a_teacher(write: Write):
    with pytest.raises(UserError, match="unknown key 'max_truncated'; it belongs to `stage: distill`"):
        preflight.check(read_config(write("refused", stage="sft"), []))
    with pytest.raises(UserError, match="only `stage: distill` is trained here; use scripts/train.sh"):
        script()["main"]([str(write("refused", stage="sft", teacher=None))])


def preset_of(folder: Path, methods: dict[str, dict[str, str]]) -> Path:
    (folder / "configs/mine/train").mkdir(parents=True)
    for name, values in methods.items():
        (folder / f"configs/mine/train/{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "configs/mine"


def test_a_method_is_trained_after_its_start_and_its_teacher(tmp_path: Path):
    preset = preset_of(
        tmp_path,
        {
            "a_pupil": {"start_from": "b_start", "teacher": "c_expert"},
            "b_start": {"start_from": "c_expert"},
            "c_expert": {},
            "d_alone": {"teacher": "start"},
        },
    )
    names = [path.stem for path in methods_of(preset)]
    assert sorted(names) == ["a_pupil", "b_start", "c_expert", "d_alone"]
    assert names.index("c_expert") < names.index("b_start") < names.index("a_pupil")
    with pytest.raises(UserError, match="starts from 'c_expert', which is not among the methods a_pupil, b_start"):
        methods_of(preset, "a_pupil,b_start")
    circle = preset_of(tmp_path / "circle", {"one": {"teacher": "two"}, "two": {"start_from": "one"}})
    with pytest.raises(UserError, match="one, two start from one another"):
        methods_of(circle)


def test_names_of_methods_become_adapters_of_the_run_and_of_the_seed(tmp_path: Path):
    common = {key: "x/y" for key in ("model_name_or_path", "dataset", "template")}
    values = {**common, "stage": "distill", "teacher": "expert", "start_from": "gold"}
    preset = preset_of(tmp_path, {"pupil": values, "expert": common, "gold": common})
    config = read_config(preset / "train/pupil.yaml", [], Path("some/run"), seed=2)
    assert config.values["teacher"] == "some/run/train/expert.seed2"
    assert config.values["adapter_name_or_path"] == "some/run/train/gold.seed2"
    own = read_config(preset / "train/pupil.yaml", ["teacher=start"], Path("some/run"), seed=2)
    assert own.values["teacher"] == "start"
    assert own.llamafactory()["stage"] == "sft"
    assert not {"teacher", "start_from"} & set(own.llamafactory())
    with pytest.raises(UserError, match="command line: teacher: no method 'expret'; did you mean 'expert'?"):
        read_config(preset / "train/pupil.yaml", ["teacher=expret"], Path("some/run"))
