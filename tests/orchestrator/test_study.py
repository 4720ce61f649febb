from collections.abc import Callable

import pytest
from pydantic import ValidationError

from merge.params import PARAMS
from orchestrator.settings import Point
from orchestrator.study import Axes, Defaults, Study
from workers.specs import ExpertSpec


def test_study_with_little_in_it_has_the_documented_defaults() -> None:
    """A name, tasks and a method are a study: the defaults are part of what users rely on."""
    study = Study.model_validate({"name": "a", "tasks": "embedded8", "merge": [{"method": "ties"}]})
    assert study.finetune.defaults == Defaults(
        steps=4000, batch_size=64, lr=0.001, data_ratio=1.0, seed=0
    )
    assert (study.groups.count, study.groups.size, study.groups.sizes) == (15, 2, None)
    assert (study.finetune.schedule, study.finetune.design) == ("constant", "one-factor")
    assert (study.finetune.optimizer.name, study.finetune.optimizer.momentum) == ("sgd", 0.9)
    assert (study.store, study.tracking, study.retries) == ("./mergesweep-store", None, 2)
    assert study.merge[0].batch_norm == "average"
    assert not study.evaluation.held_out


def test_every_axis_is_a_default_a_point_and_part_of_the_specification() -> None:
    """An axis without its field elsewhere would be varied without effect."""
    axes = set(Axes.model_fields)
    assert axes == set(Defaults.model_fields) == set(Point.__dataclass_fields__)
    assert axes <= set(ExpertSpec.__dataclass_fields__)


def test_fields_beside_a_method_never_take_a_parameters_name() -> None:
    """A method's parameters stand beside `method`, `label`, BatchNorm's policy and surgery."""
    reserved = {"method", "label", "batch_norm", "recalibration_images", "surgery"}
    for params in PARAMS.values():
        assert not reserved & set(params.__dataclass_fields__)


def test_only_what_is_not_a_field_is_a_methods_parameter(
    make_study: Callable[..., Study],
) -> None:
    """What the study writes beside the fields reaches the method as it stands."""
    entry = {"method": "dare", "label": "d", "batch_norm": "base", "density": 0.5, "scaling": 1}
    assert make_study(merge=[entry]).merge[0].params == {"density": 0.5, "scaling": 1}


def test_varied_axes_are_in_the_order_of_the_schema() -> None:
    """The order in the file does not change the order of a grid."""
    axes = Axes.model_validate({"steps": [1], "lr": [0.1]})
    assert list(axes.varied()) == ["lr", "steps"]


def test_study_cannot_be_changed(make_study: Callable[..., Study]) -> None:
    """What was checked is what runs."""
    with pytest.raises(ValidationError, match="frozen"):
        make_study().seed = 1
