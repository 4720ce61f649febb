import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from click.testing import Result
from safetensors.torch import save_file
from study_problems import problems_of

from orchestrator.plan.plan import build_plan
from orchestrator.study.reader import parse_study

Fields = Callable[..., dict[str, Any]]
PAIR = ["font_letters", "mnist_5k"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a whole model of timm."""

    def write(name: str, *, model: str = "test_resnet", num_classes: int = 10) -> str:
        path = tmp_path / name
        save_file(timm.create_model(model, num_classes=num_classes).state_dict(), path)
        return str(path)

    return write


def fields_of(study_fields: Fields, experts: dict[str, Any], **changes: object) -> dict[str, Any]:
    made = study_fields(tasks=PAIR, experts=experts, **changes)
    del made["finetune"]
    return {**made, **changes}


def test_a_study_of_files_trains_nothing(study_fields: Fields, write: Callable[..., str]) -> None:
    """Each task has a trial of no steps, whose expert has no hyperparameters in the tables."""
    experts = {"font_letters": write("a.safetensors"), "mnist_5k": write("b.safetensors")}
    study = parse_study(yaml.safe_dump(fields_of(study_fields, experts)), source="study.yaml")
    plan = build_plan(study)
    assert (len(plan.trials), plan.num_steps, len(plan.merges)) == (2, 0, 1)
    assert all(expert.given is not None for expert in plan.experts.values())
    (expert, _) = plan.experts.values()
    assert set(expert.hyperparameters.columns().values()) == {None}


def test_plan_tells_a_study_of_files(
    call: Callable[..., Result], study_fields: Fields, write: Callable[..., str], tmp_path: Path
) -> None:
    """Estimates of trainings and of measures have nothing to divide by."""
    experts = {"font_letters": write("a.safetensors"), "mnist_5k": write("b.safetensors")}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(fields_of(study_fields, experts)))
    result = call("plan", str(path))
    assert result.exit_code == 0, result.output
    assert "0 optimizer steps, 1 merge job" in result.output


def test_every_task_has_a_file_that_exists(study_fields: Fields, write: Callable[..., str]) -> None:
    """Missing, unknown and absent files are reported together."""
    experts = {"mnist_5k": "nowhere.safetensors", "mnist": write("a.safetensors")}
    found = problems_of(fields_of(study_fields, experts), is_new=True)
    assert found["experts"].startswith("no file for font_letters | give every task of the study")
    assert "expected the path of an existing file" in found["experts.mnist_5k"]
    assert "did you mean 'mnist_5k'" in found["experts.mnist"]


def test_another_architecture_is_refused(study_fields: Fields, write: Callable[..., str]) -> None:
    """The file is read before anything is scheduled."""
    experts = {
        "font_letters": write("a.safetensors"),
        "mnist_5k": write("b.safetensors", model="test_vit"),
    }
    found = problems_of(fields_of(study_fields, experts), is_new=True)
    assert list(found) == ["experts.mnist_5k"]
    assert "is not a checkpoint of test_resnet" in found["experts.mnist_5k"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Writes an adapter of a layer of `test_resnet`, in peft's layout."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    weight = timm.create_model("test_resnet").state_dict()["layer1.0.conv2.weight"]
    out, into, *kernel = weight.shape
    layer = "base_model.model.layer1.0.conv2"
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(2, into, *kernel),
        f"{layer}.lora_B.weight": torch.ones(out, 2, 1, 1),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_an_adapter_is_given_by_its_folder_or_its_file(
    study_fields: Fields, write: Callable[..., str], adapter: Path
) -> None:
    """Both names give one expert, whose id has the digests of both files."""
    found = []
    for name in (adapter, adapter / "adapter_model.safetensors"):
        experts = {"font_letters": write("a.safetensors"), "mnist_5k": str(name)}
        text = yaml.safe_dump(fields_of(study_fields, experts))
        plan = build_plan(parse_study(text, source="study.yaml", is_new=True))
        (expert,) = (each for each in plan.experts.values() if each.task == "mnist_5k")
        assert expert.given is not None
        assert expert.given.config_sha256 is not None
        found.append(expert.id)
    assert found[0] == found[1]


def test_an_adapter_that_does_not_fit_is_refused(
    study_fields: Fields, write: Callable[..., str], adapter: Path
) -> None:
    """Kind, shapes and a classifier that it cannot have are told before anything is scheduled."""
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 4}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    experts = {
        "font_letters": write("a.safetensors"),
        "mnist_5k": {"file": str(adapter), "head": "file"},
    }
    found = problems_of(fields_of(study_fields, experts), is_new=True)
    assert "an adapter has no classifier" in found["experts.mnist_5k.head"]
    assert "a rank of 3 need" in found["experts.mnist_5k.file"]


def test_a_head_of_the_file_has_the_classes_of_the_task(
    study_fields: Fields, write: Callable[..., str]
) -> None:
    """26 letters do not fit a classifier of ten classes, and a backbone alone has none."""
    experts = {
        "font_letters": {"file": write("a.safetensors"), "head": "file"},
        "mnist_5k": {"file": write("b.safetensors", num_classes=0), "head": "file"},
    }
    found = problems_of(fields_of(study_fields, experts), is_new=True)
    assert "has 10 classes, and the task has 26" in found["experts.font_letters.file"]
    assert "holds no classifier" in found["experts.mnist_5k.file"]


def test_fields_of_training_are_refused(study_fields: Fields, write: Callable[..., str]) -> None:
    """They would have no effect."""
    experts = {"font_letters": write("a.safetensors"), "mnist_5k": write("b.safetensors")}
    finetune = {"axes": {"lr": [0.1]}, "head": {"mode": "frozen", "l2": 2.0}}
    found = problems_of(fields_of(study_fields, experts, finetune=finetune), is_new=True)
    assert list(found) == ["finetune.axes"]
