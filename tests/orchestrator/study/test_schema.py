from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from merge.catalogue import PARAMS
from orchestrator.plan.plan import Plan
from orchestrator.results.schema import LORA, POINT_COLUMNS
from orchestrator.study.finetune import Defaults, FinetuneAxes
from orchestrator.study.schema import Study
from workers.specs.hyperparameters import Hyperparameters

AXES: dict[str, list[Any]] = {
    "lr": [0.1, 0.2],
    "batch_size": [4, 8],
    "steps": [5, 9],
    "data_ratio": [0.5, 1.0],
    "seed": [0, 1],
    "optimizer": ["sgd", "adam", "adamw"],
    "weight_decay": [0.0, 0.1],
    "sam_rho": [0.0, 0.05],
    "schedule": ["constant", "cosine", "linear"],
    "warmup_steps": [0, 3],
    "head": ["trained", "frozen", "probe_first"],
    "average_weights": ["none", "ema", "swa"],
    "ema_decay": [0.9, 0.99],
    "swa_start": [0.0, 0.5],
    "augment": ["none", "flip", "crop_flip"],
    "linearised": [False, True],
    "lora_rank": [2, 4],
    "lora_alpha": [2.0, 4.0],
    "lora_targets": ["auto", "all", "conv_pw, conv_pwl"],
}


def test_study_with_little_in_it_has_the_documented_defaults() -> None:
    """A study needs only a name, tasks and a method; users rely on the defaults of the rest."""
    study = Study.model_validate({"name": "a", "tasks": "embedded8", "merge": [{"method": "ties"}]})
    assert study.finetune.defaults == Defaults(
        steps=4000, batch_size=64, lr=0.001, data_ratio=1.0, seed=0
    )
    assert (study.groups.count, study.groups.size, study.groups.sizes) == (15, 2, [])
    assert (study.finetune.schedule, study.finetune.design) == ("constant", "one-factor")
    assert (study.finetune.optimizer.name, study.finetune.optimizer.momentum) == ("sgd", 0.9)
    assert (study.store, study.tracking, study.retries) == ("./mergesweep-store", None, 2)
    assert study.merge[0].batch_norm == "average"
    assert not study.evaluation.held_out


def test_every_axis_is_a_default_a_point_and_part_of_the_specification() -> None:
    """An axis whose hyperparameter is missing elsewhere would have no effect."""
    axes = set(FinetuneAxes.model_fields)
    columns = {*POINT_COLUMNS, *(field.name for field in LORA)}
    assert axes == set(Hyperparameters.__dataclass_fields__) == columns
    assert set(Defaults.model_fields) <= axes


@pytest.mark.parametrize("axis", list(AXES))
def test_every_axis_makes_other_experts(make_plan: Callable[..., Plan], axis: str) -> None:
    """Each value of an axis reaches the specification, and the tables under the axis's name."""
    beside = {"ema_decay": "ema", "swa_start": "swa"}
    fields: dict[str, Any] = {"average_weights": beside[axis]} if axis in beside else {}
    if axis in {"lora_alpha", "lora_targets"}:
        fields = {"lora": {"rank": 3}}
    defaults = {"steps": 9, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": {axis: AXES[axis]}, **fields})
    experts = [by_task["mnist_5k"] for by_task in plan.setting_experts]
    assert len({expert.id for expert in experts}) == len(AXES[axis])
    assert [expert.hyperparameters.columns()[axis] for expert in experts] == AXES[axis]


def test_every_axis_is_tried_above() -> None:
    """An axis that is added to the schema has to be added to the table above."""
    assert list(AXES) == list(FinetuneAxes.model_fields)


def test_fields_beside_a_method_never_take_a_parameters_name() -> None:
    """A method's parameters stand beside `method`, `label`, BatchNorm's policy and surgery."""
    reserved = {"method", "label", "batch_norm", "recalibration_images", "surgery"}
    for params in PARAMS.values():
        assert not reserved & set(params.__dataclass_fields__)


def test_fields_that_the_schema_does_not_know_are_the_methods_parameters(
    make_study: Callable[..., Study],
) -> None:
    """Fields that the schema does not know reach the method unchanged."""
    entry = {"method": "dare", "label": "d", "batch_norm": "base", "density": 0.5, "scaling": 1}
    assert make_study(merge=[entry]).merge[0].params == {"density": 0.5, "scaling": 1}


def test_varied_axes_are_in_the_order_of_the_schema() -> None:
    """The order in the file does not change the order of a grid."""
    axes = FinetuneAxes.model_validate({"steps": [1], "lr": [0.1]})
    assert list(axes.varied()) == ["lr", "steps"]


def test_study_cannot_be_changed(make_study: Callable[..., Study]) -> None:
    """A study cannot change after it was checked."""
    with pytest.raises(ValidationError, match="frozen"):
        make_study().seed = 1
