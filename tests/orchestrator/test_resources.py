from collections.abc import Callable
from typing import Any

import pytest
import yaml

from orchestrator.problems import StudyError
from orchestrator.reading import parse_study

Fields = Callable[..., dict[str, Any]]
GPU = {"trial": {"gpu": 0.5}}


def problems(fields: dict[str, Any]) -> list[str]:
    with pytest.raises(StudyError) as error:
        parse_study(yaml.safe_dump(fields), source="study.yaml")
    return [str(problem) for problem in error.value.problems]


def test_limits_that_mean_nothing_are_refused_at_once(study_fields: Fields) -> None:
    """GPU-hours of a study without GPUs, dollars without a price, and a negative number."""
    found = problems(study_fields(budget={"gpu_hours": 3, "usd": 5, "usd_per_gpu_hour": 2}))
    assert [each.split(":")[0] for each in found] == ["budget.gpu_hours", "budget.usd"]
    assert "limit cpu_hours" in found[0]
    assert "budget.usd_per_cpu_hour" in found[1]
    (negative,) = problems(study_fields(budget={"cpu_hours": -1}))
    assert negative.startswith("budget.cpu_hours: -1 is not allowed")


def test_dollars_of_a_study_on_gpus_need_the_price_of_a_gpu(study_fields: Fields) -> None:
    """The price of a core alone would count next to nothing."""
    budget = {"usd": 5, "usd_per_cpu_hour": 0.01}
    (problem,) = problems(study_fields(budget=budget, resources=GPU))
    assert "budget.usd_per_gpu_hour" in problem
    budget = {"usd": 5, "usd_per_gpu_hour": 2, "gpu_hours": 9, "gigabytes": 100}
    text = yaml.safe_dump(study_fields(budget=budget, resources=GPU))
    limits = parse_study(text, source="study.yaml").budget.limits()
    assert limits == {"gpu_hours": 9, "usd": 5, "gigabytes": 100}


def test_budget_is_no_part_of_any_id(make_plan: Callable[..., Any]) -> None:
    """Raising it makes nothing anew."""
    free, limited = make_plan(), make_plan(budget={"cpu_hours": 1})
    assert list(free.experts) == list(limited.experts)
    assert list(free.merges) == list(limited.merges)
