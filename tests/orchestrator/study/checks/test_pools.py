from collections.abc import Callable
from typing import Any

import pytest
import yaml

from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study

Fields = Callable[..., dict[str, Any]]
SEEDS = {"defaults": {"steps": 10, "lr": 0.01, "batch_size": 8}, "axes": {"seed": [0, 1]}}


def problems_of(fields: dict[str, Any]) -> dict[str, str]:
    """Returns the remedy of each problem, by field."""
    with pytest.raises(StudyError) as caught:
        parse_study(yaml.safe_dump(fields), source="study.yaml")
    return {each.field: each.remedy for each in caught.value.problems}


def test_a_pool_lies_between_the_group_and_the_tasks(study_fields: Fields) -> None:
    """Each value of the axis that cannot be had is named, with the least and the most there are."""
    found = problems_of(study_fields(groups={"size": 2, "pool": [1, 2, 3, 4]}))
    assert found == {
        "groups.pool[0]": "a pool has the experts of its group, so at least groups.size, which is "
        "2",
        "groups.pool[3]": "the study has 3 tasks, so a pool of irrelevant experts has at most 3",
    }


def test_relevant_experts_need_another_setting(study_fields: Fields) -> None:
    """Without an axis every task has one expert."""
    found = problems_of(study_fields(groups={"size": 2, "pool": [2, 4], "extra": "relevant"}))
    assert list(found) == ["groups.extra"]
    assert "vary something, as `finetune: {axes: {seed: [0, 1, 2]}}`" in found["groups.extra"]


def test_relevant_experts_are_counted(study_fields: Fields) -> None:
    """Seed 0 is the default, so two seeds give one further expert of each task."""
    groups = {"size": 2, "pool": [4, 5], "extra": "relevant"}
    found = problems_of(study_fields(finetune=SEEDS, groups=groups))
    assert found == {
        "groups.pool[1]": "the settings of the study have 1 further expert of each task, so a pool "
        "of relevant experts has at most 4"
    }


def test_a_kind_of_experts_needs_a_pool(study_fields: Fields) -> None:
    """A field without effect is an error."""
    found = problems_of(study_fields(groups={"size": 2, "extra": "relevant"}))
    assert list(found) == ["groups.extra"]


def test_a_method_of_two_experts_merges_no_pool_of_three(study_fields: Fields) -> None:
    """The number of experts counts, not that of the tasks."""
    found = problems_of(study_fields(groups={"pool": [2, 3]}, merge=[{"method": "slerp"}]))
    assert found == {"groups.pool[1]": "merge[0] (slerp) merges exactly 2 experts; expected 2"}
