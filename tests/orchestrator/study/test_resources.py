from collections.abc import Callable
from typing import Any

import pytest
import yaml

from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study

Fields = Callable[..., dict[str, Any]]
GPU = {"trial": {"gpu": 0.5}}


def problems(fields: dict[str, Any]) -> list[str]:
    with pytest.raises(StudyError) as error:
        parse_study(yaml.safe_dump(fields), source="study.yaml")
    return [str(problem) for problem in error.value.problems]


def test_limits_that_mean_nothing_are_refused_at_once(study_fields: Fields) -> None:
    """GPU-hours without GPUs, dollars without a price and negative limits are refused together."""
    found = problems(study_fields(budget={"gpu_hours": 3, "usd": 5, "usd_per_gpu_hour": 2}))
    assert [each.split(":")[0] for each in found] == ["budget.gpu_hours", "budget.usd"]
    assert "limit cpu_hours" in found[0]
    assert "budget.usd_per_cpu_hour" in found[1]
    (negative,) = problems(study_fields(budget={"cpu_hours": -1}))
    assert negative.startswith("budget.cpu_hours: -1 is not allowed")


def test_dollars_of_a_study_on_gpus_need_the_price_of_a_gpu(study_fields: Fields) -> None:
    """With the price of a core alone, a study on GPUs would cost almost nothing."""
    budget = {"usd": 5, "usd_per_cpu_hour": 0.01}
    (problem,) = problems(study_fields(budget=budget, resources=GPU))
    assert "budget.usd_per_gpu_hour" in problem
    budget = {"usd": 5, "usd_per_gpu_hour": 2, "gpu_hours": 9, "gigabytes": 100}
    text = yaml.safe_dump(study_fields(budget=budget, resources=GPU))
    limits = parse_study(text, source="study.yaml").budget.limits()
    assert limits == {"gpu_hours": 9, "usd": 5, "gigabytes": 100}


def test_budget_is_no_part_of_any_id(make_plan: Callable[..., Any]) -> None:
    """Changing the budget changes no id, so nothing is made again."""
    free, limited = make_plan(), make_plan(budget={"cpu_hours": 1})
    assert list(free.experts) == list(limited.experts)
    assert list(free.merges) == list(limited.merges)


def test_priority_and_quota_are_no_part_of_any_id(make_plan: Callable[..., Any]) -> None:
    """Priority and quota decide when artifacts are made, not which."""
    free = make_plan()
    shared = make_plan(resources={"priority": 5, "quota": {"cpu": 3, "gpu": 0}})
    assert shared.study.resources.priority == 5
    assert shared.study.resources.quota.limits() == {"cpu": 3, "gpu": 0}
    assert free.study.resources.quota.limits() == {}
    assert list(free.experts) == list(shared.experts)
    assert list(free.merges) == list(shared.merges)


def test_quota_without_room_for_one_worker_is_refused(study_fields: Fields) -> None:
    """Both resources are reported at once, each with the larger share."""
    resources = {
        "trial": {"cpu": 2, "gpu": 0.25},
        "merge": {"cpu": 4, "gpu": 0.25},
        "quota": {"cpu": 3, "gpu": 0.1},
    }
    by_cpu, by_gpu = problems(study_fields(resources=resources))
    assert by_cpu == (
        "resources.quota.cpu: 3 is not allowed; one worker gets 4 (resources.merge.cpu), so the "
        "quota must be at least 4"
    )
    assert by_gpu.startswith("resources.quota.gpu: 0.1 is not allowed; one worker gets 0.25")


def test_priorities_are_whole_numbers_and_quotas_positive(study_fields: Fields) -> None:
    """All wrong fields of the section are reported at once."""
    resources = {"priority": "high", "quota": {"cpu": 0, "gpus": 1}}
    found = problems(study_fields(resources=resources))
    assert [str(each).partition(";")[0] for each in found] == [
        "resources.priority: 'high' is not allowed",
        "resources.quota.cpu: 0 is not allowed",
        "resources.quota.gpus: unknown field",
    ]
    assert found[2].endswith("did you mean 'gpu'? Known fields: cpu, gpu")


@pytest.mark.parametrize("value", ["half", "Auto", "0.5", -1, None, ["auto"]])
def test_gpus_of_a_trial_are_a_number_or_auto(study_fields: Fields, value: object) -> None:
    """The message names the field and both kinds of value."""
    (problem,) = problems(study_fields(resources={"trial": {"gpu": value}}))
    assert problem.startswith("resources.trial.gpu: ")
    if isinstance(value, str):
        assert problem == (
            f"resources.trial.gpu: {value!r} is not allowed; expected 0 or more GPUs, or auto"
        )


def test_only_trials_are_measured(study_fields: Fields) -> None:
    """Merge jobs need a number, and `is_auto` is no field."""
    (merge,) = problems(study_fields(resources={"merge": {"gpu": "auto"}}))
    assert merge == "resources.merge.gpu: 'auto' is not allowed; expected a number"
    (unknown,) = problems(study_fields(resources={"trial": {"is_auto": True}}))
    assert unknown.startswith("resources.trial.is_auto: unknown field")


def test_auto_is_no_part_of_any_id(make_plan: Callable[..., Any]) -> None:
    """Whatever a calibration proposes, artifacts are the same."""
    free, measured = make_plan(), make_plan(resources={"trial": {"gpu": "auto"}})
    assert measured.study.resources.trial.is_auto
    assert not free.study.resources.trial.is_auto
    assert list(free.experts) == list(measured.experts)


@pytest.mark.parametrize(
    ("trial", "field", "said"),
    [
        ({"gpu": 1.5}, "gpu", "1.5 is not allowed; expected at most 1, or a whole number"),
        ({"gpu": 0.00001}, "gpu", "expected 0.0001 or more: Ray counts no smaller part"),
        ({"cpu": 0.00001}, "cpu", "expected 0.0001 or more"),
    ],
)
def test_share_that_ray_cannot_count_is_refused(
    study_fields: Fields, trial: dict[str, float], field: str, said: str
) -> None:
    """Ray would refuse the first worker, after the images were prepared."""
    (problem,) = problems(study_fields(resources={"trial": trial}))
    assert problem.startswith(f"resources.trial.{field}: ")
    assert said in problem
    (problem,) = problems(study_fields(resources={"merge": trial}))
    assert problem.startswith(f"resources.merge.{field}: ")


@pytest.mark.parametrize("gpu", [0, 0.0001, 0.5, 1, 2, 2.0, "auto"])
def test_shares_that_ray_counts_are_allowed(make_plan: Callable[..., Any], gpu: object) -> None:
    """A part of a GPU, or whole ones; of cores, any number."""
    trial = make_plan(resources={"trial": {"gpu": gpu, "cpu": 1.5}}).study.resources.trial
    assert trial.amounts() == {"cpu": 1.5, "gpu": 1 if gpu == "auto" else gpu}
