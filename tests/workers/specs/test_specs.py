import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from merge.catalogue import parse_params
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec, GivenWeights
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.ids import VERSIONS, content_id
from workers.specs.merge import MergeSpec, SurgerySpec

EXPERT = ExpertSpec(
    task="mnist_5k",
    base_id="0" * 16,
    data_id="1" * 16,
    hyperparameters=Hyperparameters(
        steps=100, batch_size=32, lr=0.01, data_ratio=1.0, optimizer="sgd", seed=0
    ),
    constants=TrainingConstants(momentum=0.9, freeze_batch_norm=False),
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
HYPERPARAMETERS: dict[str, Any] = {
    "steps": 200,
    "batch_size": 64,
    "lr": 0.1,
    "data_ratio": 0.5,
    "optimizer": "adam",
    "seed": 1,
    "weight_decay": 0.1,
    "sam_rho": 0.05,
    "schedule": "cosine",
    "warmup_steps": 5,
    "head": "frozen",
    "average_weights": "ema",
    "ema_decay": 0.9,
    "swa_start": 0.5,
    "augment": "flip",
    "linearised": True,
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_targets": "qkv",
}
CONSTANTS: dict[str, Any] = {
    "momentum": 0.8,
    "freeze_batch_norm": True,
    "nesterov": True,
    "probe_l2": 1.0,
}
CHANGES: dict[str, Any] = {
    "task": "fashion_mnist_5k",
    "base_id": "a" * 16,
    "data_id": "b" * 16,
    "hyperparameters": replace(EXPERT.hyperparameters, **HYPERPARAMETERS),
    "constants": replace(EXPERT.constants, **CONSTANTS),
    "head_id": "5" * 16,
    "evaluate_on": "validation",
    "given": GivenWeights(sha256="c" * 64, head="file"),
}
EXPERT_JSON = {
    "task": "mnist_5k",
    "base_id": "0" * 16,
    "data_id": "1" * 16,
    "optimizer": {
        "name": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "nesterov": False,
        "sam_rho": 0.0,
    },
    "schedule": "constant",
    "lr": 0.01,
    "batch_size": 32,
    "data_ratio": 1.0,
    "steps": 100,
    "seed": 0,
    "freeze_batch_norm": False,
    "warmup_steps": 0,
    "head": {"mode": "trained", "l2": 0.0},
    "average_weights": {"mode": "none", "ema_decay": 0.0, "swa_start": 0.0},
    "augment": "none",
    "linearised": False,
    "head_id": None,
}
PRETRAIN_JSON = {
    "tasks": ["mnist_5k", "mnist_m"],
    "data_ids": ["1" * 16, "2" * 16],
    "optimizer": {**EXPERT_JSON["optimizer"], "name": "adam"},  # type: ignore[dict-item]
    "schedule": "constant",
    "lr": 0.001,
    "batch_size": 64,
    "steps": 50,
    "seed": 0,
}


def tuned(**changes: Any) -> ExpertSpec:  # noqa: ANN401 any hyperparameter
    return replace(EXPERT, hyperparameters=replace(EXPERT.hyperparameters, **changes))


def test_ids_are_the_same_for_good() -> None:
    """A changed id would make stores train again what they already have."""
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


@pytest.mark.parametrize("name", [field.name for field in fields(Hyperparameters)])
def test_every_hyperparameter_is_in_the_id(name: str) -> None:
    """Changing one hyperparameter alone changes the id."""
    assert tuned(**{name: HYPERPARAMETERS[name]}).id != EXPERT.id


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingConstants)])
def test_every_constant_of_training_is_in_the_id(name: str) -> None:
    """Changing one constant alone changes the id."""
    constants = replace(EXPERT.constants, **{name: CONSTANTS[name]})
    assert replace(EXPERT, constants=constants).id != EXPERT.id


def test_stored_json_of_an_expert_is_the_same_for_good() -> None:
    """Manifests and plans have this form, in which some fields stand inside objects."""
    assert EXPERT.to_json() == EXPERT_JSON
    assert ExpertSpec.from_json(EXPERT_JSON) == EXPERT


def test_stored_json_of_a_pretrained_base_is_the_same_for_good() -> None:
    """The JSON leaves out settings that no study can vary for pretraining."""
    values = {"model": "resnet18", "weights": "timm", "seed": 0, "pretrain": PRETRAIN_JSON}
    base = BaseSpec.from_json(values)
    assert json.loads(json.dumps(base.to_json())) == values
    assert base.id == "52a4d10371920fba"


def test_pretraining_keeps_what_its_json_usually_leaves_out() -> None:
    """A value that no study can set yet is kept, and it changes the id."""
    base = BaseSpec.from_json({**asdict(BASE), "pretrain": PRETRAIN_JSON})
    assert base.pretrain is not None
    warm = replace(base.pretrain.hyperparameters, warmup_steps=3)
    other = replace(base, pretrain=replace(base.pretrain, hyperparameters=warm))
    assert BaseSpec.from_json(other.to_json()) == other
    assert other.id != base.id


@pytest.mark.parametrize("kind", ["none", "ema", "swa"])
def test_unused_hyperparameters_are_fixed_in_the_id_and_null_in_the_tables(kind: str) -> None:
    """Two points that train identical experts have one id."""
    point = tuned(average_weights=kind, ema_decay=0.9, swa_start=0.5).hyperparameters
    used = {
        "ema_decay": 0.9 if kind == "ema" else None,
        "swa_start": 0.5 if kind == "swa" else None,
    }
    found = point.canonical()
    assert (found.ema_decay, found.swa_start) == tuple(each or 0.0 for each in used.values())
    assert used.items() <= found.columns().items()


@pytest.mark.parametrize("name", ["lora_alpha", "lora_targets"])
def test_adapters_without_a_rank_do_not_change_an_id(name: str) -> None:
    """An expert without adapters has the id that it had before there were any."""
    point = tuned(**{name: HYPERPARAMETERS[name]}).hyperparameters
    assert replace(EXPERT, hyperparameters=point.canonical()).id == EXPERT.id
    assert point.columns()[name] is None


def test_alpha_is_twice_the_rank_unless_it_is_given() -> None:
    """An axis of ranks has one scale, and an alpha that is written out has the same id."""
    points = [tuned(lora_rank=4), tuned(lora_rank=4, lora_alpha=8.0)]
    ids = {replace(each, hyperparameters=each.hyperparameters.canonical()).id for each in points}
    assert len(ids) == 1
    assert ids != {tuned(lora_rank=4, lora_alpha=4.0).id}


@pytest.mark.parametrize(
    ("change", "depends"),
    [
        ({}, False),
        ({"warmup_steps": 50}, False),
        ({"average_weights": "ema", "ema_decay": 0.9}, False),
        ({"average_weights": "swa", "swa_start": 0.5}, True),
        ({"schedule": "cosine"}, True),
        ({"schedule": "linear"}, True),
    ],
)
def test_expert_knows_whether_its_steps_depend_on_their_number(
    change: dict[str, Any], *, depends: bool
) -> None:
    """This property alone decides which step counts share a training."""
    assert tuned(**change).hyperparameters.depends_on_total is depends


def test_merge_is_linearised_as_its_experts_are() -> None:
    """A mixture of linearised and other experts cannot be evaluated."""
    linearised = replace(EXPERT.hyperparameters, linearised=True)
    tangents = tuple(replace(each, hyperparameters=linearised) for each in MERGE.experts)
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
    """Moving an expert from the group to the held-out experts makes another merge."""
    assert replace(MERGE, **change).id != MERGE.id


@pytest.mark.parametrize("change", [{"rank": 8}, {"steps": 9}, {"lr": 0.1}, {"batch_size": 8}])
def test_every_field_of_a_surgery_is_in_its_merges_id(change: dict[str, Any]) -> None:
    """Adapters with other settings give other scores."""
    merge = replace(MERGE, surgery=SURGERY)
    assert replace(merge, surgery=replace(SURGERY, **change)).id != merge.id


def test_surgery_comes_back_from_json() -> None:
    """The JSON of a merge has the surgery's fields, or null."""
    for surgery in (SURGERY, None):
        merge = replace(MERGE, surgery=surgery)
        written = json.loads(json.dumps(merge.to_json()))
        read = MergeSpec.from_json(written, experts=merge.experts, held_out=merge.held_out)
        assert read == merge


def test_expert_comes_back_from_json_with_its_id() -> None:
    """Numbers keep their types, because 1.0 and 1 give two ids."""
    for expert in (EXPERT, replace(EXPERT, **CHANGES)):
        text = json.dumps(expert.to_json())
        assert ExpertSpec.from_json(json.loads(text)) == expert
        assert ExpertSpec.from_json(json.loads(text)).id == expert.id


@pytest.mark.parametrize("spec", [BASE, IMAGES])
def test_plain_specs_come_back_from_json_with_their_ids(spec: BaseSpec | DataSpec) -> None:
    """Bases and images that are read from JSON have the same ids."""
    assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))).id == spec.id


def test_images_that_a_merge_is_evaluated_on_are_in_its_id_and_json() -> None:
    """A candidate of a search shares no artifact with a merge that reads test images."""
    candidate = replace(MERGE, evaluate_on="validation")
    fields = candidate.to_json()

    assert candidate.id != MERGE.id
    assert fields["evaluate_on"] == "validation"
    assert "evaluate_on" not in MERGE.to_json()
    members = {"experts": MERGE.experts, "held_out": MERGE.held_out}
    assert MergeSpec.from_json(fields, **members) == candidate


def test_json_of_a_merge_names_its_experts_by_id() -> None:
    """Otherwise every merge of 20 experts would repeat 20 specifications."""
    spec = replace(MERGE, experts=(EXPERT,), held_out=(OTHER_EXPERT,))
    assert spec.to_json() == {
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
    """A field of another release is an error, because it may have changed the result."""
    with pytest.raises(TypeError, match="dropout"):
        ExpertSpec.from_json({**EXPERT.to_json(), "dropout": 0.5})


@pytest.mark.parametrize(
    ("density", "epsilon", "revision"),
    [(0.7, 0.14, 1), (0.07, 0.14, 2), (0.05, 0.14, 2), (0.071, 0.14, 1), (1.0, 0.14, 1)],
)
def test_only_merges_by_della_whose_window_begins_at_zero_have_new_ids(
    density: float, epsilon: float, revision: int
) -> None:
    """Their results changed; all other ids are those of stores that exist."""
    params = {"density": density, "epsilon": epsilon}
    merge = replace(MERGE, method="della", params=params)
    assert parse_params("della", params).revision == revision
    spec = {
        "method": "della",
        "params": params,
        "batch_norm": "average",
        "recalibration_images": 0,
        "seed": 0,
        "num_experts": 2,
        **({"revision": revision} if revision > 1 else {}),
    }
    inputs = ("0" * 16, EXPERT.id, OTHER_EXPERT.id)
    assert merge.id == content_id("merge", version=VERSIONS["merge"], spec=spec, inputs=inputs)
