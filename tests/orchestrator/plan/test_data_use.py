from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from merge.catalogue import CARDS
from orchestrator.plan.data_use import use_columns, use_text
from orchestrator.plan.plan import Plan

RECALIBRATED = {"batch_norm": "recalibrate"}
SURGERY = {"surgery": {}}


@pytest.mark.parametrize(
    ("entry", "data", "per_task_modules"),
    [
        ({"method": "average"}, "none", False),
        ({"method": "average", **RECALIBRATED}, "unlabelled train", False),
        ({"method": "average", "batch_norm": "per_task"}, "none", True),
        ({"method": "average", **SURGERY}, "unlabelled test", True),
        ({"method": "ties", **RECALIBRATED, **SURGERY}, "unlabelled train, unlabelled test", True),
        ({"method": "frank_wolfe_soft"}, "labelled train", False),
        (
            {"method": "frank_wolfe_soft", "loss": "entropy"},
            "labelled train, unlabelled test",
            False,
        ),
        ({"method": "ties", "scaling": {"tune": [0.1, 0.3]}}, "labelled validation", False),
        (
            {"method": "frank_wolfe", "scaling": {"tune": [0.1, 0.3]}},
            "labelled validation, labelled train",
            False,
        ),
        ({"method": "emr"}, "none", True),
        ({"method": "emr", **SURGERY}, "unlabelled test", True),
    ],
)
def test_method_policy_and_surgery_add_up(
    make_plan: Callable[..., Plan], entry: dict[str, Any], *, data: str, per_task_modules: bool
) -> None:
    """The merge uses the data and modules of its method, its policy and its surgery together."""
    tasks = {"names": ["font_letters", "mnist_5k"], "max_validation": 20}
    for spec in make_plan(merge=[entry], tasks=tasks).merges.values():
        assert use_columns(spec) == {"data_use": data, "per_task_modules": per_task_modules}


def test_labelled_images_are_not_told_again_without_their_labels(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that reads labelled training images also reads them without labels."""
    labelled = replace(CARDS["average"], data_use="labelled_train")
    monkeypatch.setitem(CARDS, "average", labelled)
    entry = {"method": "average", **RECALIBRATED, **SURGERY}
    for spec in make_plan(merge=[entry]).merges.values():
        assert use_columns(spec)["data_use"] == "labelled train, unlabelled test"


@pytest.mark.parametrize("method", CARDS)
def test_every_method_is_told_by_its_card(make_plan: Callable[..., Plan], method: str) -> None:
    """Without a policy or surgery, the method's card gives the columns."""
    for spec in make_plan(merge=[{"method": method}]).merges.values():
        assert use_columns(spec) == {
            "data_use": CARDS[method].data_use.replace("_", " "),
            "per_task_modules": CARDS[method].is_per_task,
        }


def test_text_has_both() -> None:
    """The text joins both columns."""
    assert use_text("none", per_task_modules=False) == "none"
    assert use_text("unlabelled test", per_task_modules=True) == "unlabelled test, per-task modules"
