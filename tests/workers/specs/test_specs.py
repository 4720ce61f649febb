import json
from dataclasses import fields, replace
from typing import Any

import pytest

from workers.specs.data import DataSpec
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.specs.spec_json import expert_from_json, spec_to_json, surgery_from_json
from workers.specs.training import (
    AveragingSpec,
    BaseSpec,
    ExpertSpec,
    HeadSpec,
    OptimizerSpec,
    TrialSpec,
)

EXPERT = ExpertSpec(
    task="mnist_5k",
    base_id="0" * 16,
    data_id="1" * 16,
    optimizer=OptimizerSpec(name="sgd", momentum=0.9, weight_decay=0.0),
    schedule="constant",
    lr=0.01,
    batch_size=32,
    data_ratio=1.0,
    steps=100,
    seed=0,
    freeze_batch_norm=False,
)
OTHER_EXPERT = replace(EXPERT, task="traffic_signs", data_id="2" * 16)
MERGE = MergeSpec(
    method="ties",
    params={"density": 0.2, "scaling": 0.3, "consensus": "sum", "scope": "model"},
    batch_norm="average",
    recalibration_images=0,
    seed=0,
    base_id="0" * 16,
    experts=(EXPERT, OTHER_EXPERT),
    held_out=(),
)
SURGERY = SurgerySpec(rank=16, steps=1000, lr=0.001, batch_size=16)
BASE = BaseSpec(model="resnet18", weights="timm", seed=0)
IMAGES = DataSpec(
    task="mnist_5k",
    fingerprint="f" * 64,
    image_size=64,
    max_train=None,
    max_test=500,
    evaluate_on="test",
)
CHANGES: dict[str, Any] = {
    "task": "fashion_mnist_5k",
    "base_id": "a" * 16,
    "data_id": "b" * 16,
    "optimizer": OptimizerSpec(name="adam", momentum=0.9, weight_decay=0.0),
    "schedule": "cosine",
    "lr": 0.1,
    "batch_size": 64,
    "data_ratio": 0.5,
    "steps": 200,
    "seed": 1,
    "freeze_batch_norm": True,
    "warmup_steps": 5,
    "head": HeadSpec(mode="frozen", l2=1.0),
    "average_weights": AveragingSpec(mode="ema", ema_decay=0.9),
    "augment": "flip",
    "linearised": True,
    "head_id": "5" * 16,
}


def test_ids_are_the_same_for_good() -> None:
    """An id that changes forks every store: what was trained would be trained again."""
    assert [each.id for each in (BASE, IMAGES, EXPERT, MERGE, replace(MERGE, surgery=SURGERY))] == [
        "4bad13207a1250eb",
        "16398a6e4f342146",
        "c736ba0da6ef0251",
        "68ee0c12cb27224e",
        "f5e88da3f8ecfea8",
    ]


@pytest.mark.parametrize("field", [field.name for field in fields(ExpertSpec)])
def test_every_field_of_an_expert_is_in_its_id(field: str) -> None:
    """Two experts that differ in anything never share an artifact."""
    assert replace(EXPERT, **{field: CHANGES[field]}).id != EXPERT.id


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("optimizer", {"momentum": 0.8}),
        ("optimizer", {"weight_decay": 0.1}),
        ("optimizer", {"nesterov": True}),
        ("optimizer", {"sam_rho": 0.05}),
        ("head", {"mode": "probe_first"}),
        ("head", {"l2": 0.1}),
        ("average_weights", {"mode": "swa"}),
        ("average_weights", {"ema_decay": 0.9}),
        ("average_weights", {"swa_start": 0.5}),
    ],
)
def test_every_field_of_an_experts_parts_is_in_its_id(part: str, change: dict[str, Any]) -> None:
    """The parts are specifications of their own."""
    assert replace(EXPERT, **{part: replace(getattr(EXPERT, part), **change)}).id != EXPERT.id


@pytest.mark.parametrize(
    ("change", "depends"),
    [
        ({}, False),
        ({"warmup_steps": 50}, False),
        ({"average_weights": AveragingSpec(mode="ema", ema_decay=0.9)}, False),
        ({"average_weights": AveragingSpec(mode="swa", swa_start=0.5)}, True),
        ({"schedule": "cosine"}, True),
        ({"schedule": "linear"}, True),
    ],
)
def test_expert_knows_whether_its_steps_depend_on_their_number(
    change: dict[str, Any], *, depends: bool
) -> None:
    """What may share a run follows from this alone."""
    assert replace(EXPERT, **change).depends_on_total is depends


def test_merge_is_linearised_as_its_experts_are() -> None:
    """A mixture of both has no model that it could be evaluated as."""
    tangents = tuple(replace(expert, linearised=True) for expert in MERGE.experts)
    assert not MERGE.linearised
    assert replace(MERGE, experts=tangents).linearised
    with pytest.raises(ValueError, match="too many"):
        _ = replace(MERGE, experts=tangents, held_out=(EXPERT,)).linearised


@pytest.mark.parametrize(
    "change",
    [
        {"method": "dare"},
        {"params": {**MERGE.params, "scaling": 0.4}},
        {"batch_norm": "recalibrate"},
        {"recalibration_images": 8},
        {"seed": 1},
        {"base_id": "a" * 16},
        {"experts": (EXPERT,)},
        {"experts": (OTHER_EXPERT, EXPERT)},
        {"experts": (EXPERT,), "held_out": (OTHER_EXPERT,)},
        {"surgery": SURGERY},
    ],
)
def test_every_field_of_a_merge_is_in_its_id(change: dict[str, Any]) -> None:
    """An expert moved out of the group to the held-out ones is another merge, too."""
    assert replace(MERGE, **change).id != MERGE.id


@pytest.mark.parametrize("change", [{"rank": 8}, {"steps": 9}, {"lr": 0.1}, {"batch_size": 8}])
def test_every_field_of_a_surgery_is_in_its_merges_id(change: dict[str, Any]) -> None:
    """Adapters trained otherwise give other scores."""
    merge = replace(MERGE, surgery=SURGERY)
    assert replace(merge, surgery=replace(SURGERY, **change)).id != merge.id


def test_surgery_comes_back_from_json() -> None:
    """A merge's JSON has its fields, or null."""
    for surgery in (SURGERY, None):
        text = json.dumps(spec_to_json(replace(MERGE, surgery=surgery)))
        assert surgery_from_json(json.loads(text)["surgery"]) == surgery


def test_trial_commits_an_expert_at_each_snapshot() -> None:
    """The experts differ in their steps alone, and the trial has the id of the last."""
    trial = TrialSpec(longest=EXPERT, snapshots=(10, 50, 100))
    assert [expert.steps for expert in trial.experts] == [10, 50, 100]
    assert trial.experts[-1] == EXPERT
    assert trial.id == EXPERT.id


@pytest.mark.parametrize(
    ("committed", "left"),
    [((), (10, 50, 100)), ((10,), (50, 100)), ((100,), (10, 50)), ((10, 100), (50,))],
)
def test_trial_without_committed_experts_ends_with_the_last_missing(
    committed: tuple[int, ...], left: tuple[int, ...]
) -> None:
    """A resumed study trains no further than it must."""
    trial = TrialSpec(longest=EXPERT, snapshots=(10, 50, 100))
    rest = trial.without(replace(EXPERT, steps=steps).id for steps in committed)
    assert rest is not None
    assert rest.snapshots == left
    assert rest.longest.steps == left[-1]


def test_nothing_is_left_of_a_trial_whose_experts_all_exist() -> None:
    """A finished study runs no trial."""
    trial = TrialSpec(longest=EXPERT, snapshots=(10, 100))
    assert trial.without(expert.id for expert in trial.experts) is None


def test_expert_comes_back_from_json_with_its_id() -> None:
    """Numbers keep their types through the text: 1.0 and 1 would be two ids."""
    for expert in (EXPERT, replace(EXPERT, **CHANGES)):
        text = json.dumps(spec_to_json(expert))
        assert expert_from_json(json.loads(text)) == expert
        assert expert_from_json(json.loads(text)).id == expert.id


@pytest.mark.parametrize("spec", [BASE, IMAGES])
def test_plain_specs_come_back_from_json_with_their_ids(spec: BaseSpec | DataSpec) -> None:
    """Their fields are plain values, so the class itself reads them."""
    assert type(spec)(**json.loads(json.dumps(spec_to_json(spec)))).id == spec.id


def test_json_of_a_merge_names_its_experts_by_id() -> None:
    """A group of 20 experts would otherwise write every expert into every merge."""
    spec = replace(MERGE, experts=(EXPERT,), held_out=(OTHER_EXPERT,))
    assert spec_to_json(spec) == {
        "method": "ties",
        "params": {"density": 0.2, "scaling": 0.3, "consensus": "sum", "scope": "model"},
        "batch_norm": "average",
        "recalibration_images": 0,
        "seed": 0,
        "base_id": "0" * 16,
        "experts": {"mnist_5k": EXPERT.id},
        "held_out": {"traffic_signs": OTHER_EXPERT.id},
        "surgery": None,
    }


def test_json_with_an_unknown_field_is_refused() -> None:
    """A field of another release is not dropped in silence: it may have changed the result."""
    with pytest.raises(TypeError, match="dropout"):
        expert_from_json({**spec_to_json(EXPERT), "dropout": 0.5})
