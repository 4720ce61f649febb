"""Faults of models as problems of a study file. `tests/workers/check` has the checks themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from known_models import MODEL_SIZES

from orchestrator.plan.plan import build_plan
from orchestrator.study.checks import models
from orchestrator.study.checks.models import questions, resized_models, unchecked_models
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from workers.check.ask import remember_reports
from workers.check.report import (
    Fault,
    FaultKind,
    FileUse,
    ModelReport,
    ModelUse,
    StepKind,
    TowerUse,
    Use,
)

Make = Callable[..., Study]
BACKBONE: dict[str, Any] = {
    "model": "test_resnet",
    "weights": {"test_resnet": "none", "test_vit": "timm"},
    "image_size": 32,
    "axes": {"model": ["test_resnet", "test_vit"], "weights": ["none", "timm"]},
}


def uses_of(study: Study) -> list[Use]:
    """Returns the uses that a study asks about."""
    return [each.use for each in questions(study.backbone, finetune=study.finetune)]


def remember(study: Study, **reports: ModelReport) -> None:
    """Writes a report for each model of a study to the node's cache."""
    remember_reports({use.key: reports[use.model] for use in uses_of(study)})


def problems_of(fields: dict[str, Any]) -> dict[str, str]:
    """Returns the texts of a study's problems by field."""
    with pytest.raises(StudyError) as refused:
        parse_study(yaml.safe_dump(fields), source="study.yaml", is_new=True)
    return {each.field: f"{each.fault}; {each.remedy}" for each in refused.value.problems}


FIELDS: dict[FaultKind, set[str]] = {
    "name": {"backbone.axes.model[1]"},
    "model": {"backbone.axes.model[1]"},
    "image_size": {"backbone.image_size"},
    "resizing": {"backbone.image_size"},
    "hub": {"backbone.weights.test_vit"},
    "linearised": {"finetune.axes.linearised[1]"},
    "batch_size": {"backbone.pretrain.batch_size", "finetune.axes.batch_size[0]"},
}
"""The fields to change, by the kind of a fault of `test_vit` in the study below."""


@pytest.mark.parametrize("kind", FIELDS)
def test_fault_is_a_problem_of_the_field_to_change(
    kind: FaultKind, make_study: Make, study_fields: Callable[..., dict[str, Any]]
) -> None:
    """Every kind of fault names its fields, beside the other problems of the file."""
    fields = study_fields(
        backbone={**BACKBONE, "pretrain": {"tasks": ["kana"], "steps": 4, "batch_size": 1}},
        finetune={"axes": {"linearised": [False, True]}}
        if kind == "linearised"
        else {"freeze_batch_norm": False, "axes": {"batch_size": [1, 8]}},
    )
    fault = Fault(kind=kind, fault="it fails", remedy="mend it")
    remember(
        make_study(**fields),
        test_resnet=ModelReport(size=MODEL_SIZES["test_resnet"]),
        test_vit=ModelReport(faults=(fault,)),
    )
    found = problems_of({**fields, "seed": -1})
    assert found.pop("seed")
    assert found == dict.fromkeys(FIELDS[kind], "it fails; mend it")


def test_file_of_another_model_is_a_problem_of_the_field_that_names_it(
    make_study: Make, study_fields: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Each file is asked about with its model; in a grid, with every model."""
    (tmp_path / "some.safetensors").write_bytes(b"1")
    other = str(tmp_path / "some.safetensors")
    backbone = {
        **BACKBONE,
        "axes": {"model": ["test_resnet", "test_vit"], "weights": ["none", other]},
    }
    fields = study_fields(backbone=backbone, finetune={"design": "grid"})
    study = make_study(**fields)
    uses = uses_of(study)
    files = [use for use in uses if isinstance(use, FileUse)]
    assert [use.model for use in files] == ["test_resnet", "test_vit"]
    fault = Fault(kind="file", fault="it is no checkpoint", remedy="take another")
    remember_reports(
        {use.key: ModelReport() for use in uses} | {files[0].key: ModelReport(faults=(fault,))}
    )
    expected = {"backbone.axes.weights[1]": "it is no checkpoint; take another"}
    assert problems_of(fields) == expected


def test_steps_of_a_study_are_checked_at_their_smallest_batch(make_study: Make) -> None:
    """Kinds of steps differ in BatchNorm and linearisation; larger batches are not tried."""
    study = make_study(
        backbone={**BACKBONE, "pretrain": {"tasks": ["kana"], "steps": 4}},
        finetune={"axes": {"batch_size": [64, 1, 8], "linearised": [False, True]}},
    )
    resnet, vit = uses_of(study)
    assert isinstance(resnet, ModelUse)
    assert isinstance(vit, ModelUse)
    kind = {"trains_batch_norm": False, "linearised": False}
    assert resnet.steps == (
        StepKind(batch_size=1, **kind),
        StepKind(batch_size=2, **{**kind, "linearised": True}),
        StepKind(batch_size=2, **{**kind, "trains_batch_norm": True}),
    )
    assert resnet.weights == ("none", "timm")
    assert vit.weights == ("timm",)


def test_only_models_that_need_it_are_built_for_the_image_size(make_study: Make) -> None:
    """The bases of other models, and of studies at a model's own size, keep their ids."""
    study = make_study(backbone={**BACKBONE, "axes": {"model": ["test_resnet", "test_vit"]}})
    report = ModelReport(size=MODEL_SIZES["test_resnet"])
    remember(study, test_resnet=report, test_vit=ModelReport(is_resized=True))
    assert resized_models(study) == {"test_vit"}
    before = build_plan(study).bases
    after = build_plan(study, resized=resized_models(study)).bases
    ids = {base.model: base.id for base in before.by_id.values()}
    for base in after.by_id.values():
        assert (base.id == ids[base.model]) == (base.model == "test_resnet")
        assert base.to_json().get("image_size") == (32 if base.model == "test_vit" else None)
    assert after.resized_models == {"test_vit"}


def test_models_that_could_not_be_tried_are_no_problem_of_the_file(
    make_study: Make, study_fields: Callable[..., dict[str, Any]]
) -> None:
    """A small or busy machine may not refuse a study that others can run."""
    study = make_study()
    remember(study, test_resnet=ModelReport(unchecked="it took too long"))
    parse_study(yaml.safe_dump(study_fields()), source="study.yaml", is_new=True)
    assert unchecked_models(study) == ["it took too long"]


def test_zero_shot_heads_are_asked_about_with_every_image_tower(
    make_study: Make,
    study_fields: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tag of open_clip can be checked; a file of weights only when it is read."""
    clip = "vit_base_patch32_clip_224"
    fields = study_fields(
        backbone={"model": f"{clip}.openai", "weights": "none", "image_size": 224},
        finetune={"zero_shot": {"model": "ViT-B-32", "weights": "openai"}},
    )
    monkeypatch.setattr(models, "_has_open_clip", lambda: False)
    study = make_study(**fields)
    tower = TowerUse(model=f"{clip}.openai", tower="ViT-B-32", tag="openai", has_open_clip=False)
    assert uses_of(study)[-1] == tower
    fault = Fault(kind="tower_weights", fault="no such weights", remedy="take others")
    reports = {use.key: ModelReport(unchecked="not tried") for use in uses_of(study)}
    remember_reports({**reports, tower.key: ModelReport(faults=(fault,))})
    assert problems_of(fields) == {"finetune.zero_shot.weights": "no such weights; take others"}
    not_tried, without_open_clip = unchecked_models(study)
    assert not_tried == "not tried"
    assert "pip install 'mergesweep[clip]'" in without_open_clip
