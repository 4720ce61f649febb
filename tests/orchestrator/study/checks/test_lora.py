import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from study_problems import problems_of

from orchestrator.study.checks.lora import fields_of_targets, node_packages
from orchestrator.study.schema import Study

Fields = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("finetune", "field", "text"),
    [
        ({"lora": {"rank": -1}}, "finetune.lora.rank", "-1"),
        ({"lora": {"rank": 4, "alpha": 0}}, "finetune.lora.alpha", "0"),
        ({"lora": {"rank": 4, "targets": "a b"}}, "finetune.lora.targets", "separated by commas"),
        ({"lora": {"alpha": 4}}, "finetune.lora.alpha", "no expert has adapters"),
        ({"axes": {"lora_targets": ["qkv"]}}, "finetune.axes.lora_targets", "has adapters"),
        ({"lora": {"rank": 4}, "linearised": True}, "finetune.lora.rank", "expansion"),
        (
            {"average_weights": "ema", "axes": {"lora_rank": [0, 4]}},
            "finetune.axes.lora_rank",
            "a mean of the products",
        ),
        (
            {"lora": {"rank": 4}, "freeze_batch_norm": False},
            "finetune.freeze_batch_norm",
            "expected true",
        ),
    ],
)
def test_what_adapters_exclude_is_refused(
    study_fields: Fields, finetune: dict[str, Any], field: str, text: str
) -> None:
    """The message names the field to change, and the reason."""
    assert text in problems_of(study_fields(finetune=finetune))[field]


def test_multi_task_models_are_refused_beside_adapters(study_fields: Fields) -> None:
    """All their weights are trained, so they are no reference for adapters."""
    fields = study_fields(
        finetune={"axes": {"lora_rank": [0, 4]}}, baselines={"multi_task": {"steps": "same"}}
    )
    assert "adapters" in problems_of(fields)["baselines.multi_task"]


def test_missing_package_is_told_before_anything_runs(
    study_fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial would fail on the node; the study file is refused here."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    found = problems_of(study_fields(finetune={"axes": {"lora_rank": [0, 4]}}))
    assert "mergesweep[lora]" in found["finetune.axes.lora_rank"]


def test_only_studies_with_adapters_need_the_package(make_study: Callable[..., Study]) -> None:
    """A rank of 0 trains the weights themselves."""
    finetunes = [{"axes": {"lora_rank": [0]}}, {"axes": {"lora_rank": [0, 4]}}]
    found = [node_packages(make_study(finetune=each).finetune) for each in finetunes]
    assert found == [(), ("peft",)]


def test_targets_know_the_fields_that_name_them(make_study: Callable[..., Study]) -> None:
    """A fault of a target is told at the field to change."""
    study = make_study(
        finetune={
            "lora": {"rank": 4},
            "axes": {"lora_rank": [2, 4], "lora_targets": ["qkv", "auto"]},
        }
    )
    assert fields_of_targets(study.finetune) == {
        "auto": ("finetune.lora.targets", "finetune.axes.lora_targets[1]"),
        "qkv": ("finetune.axes.lora_targets[0]",),
    }
