"""Checks what lies between the fields of a budget and the resources of a study's workers."""

from collections.abc import Iterator

from orchestrator.problems import StudyProblem
from orchestrator.study import Budget, Resources


def check_budget(budget: Budget, *, resources: Resources) -> Iterator[StudyProblem]:
    """Yields limits that could never be reached, and dollars without a price."""
    takes_gpu = resources.trial.gpu > 0 or resources.merge.gpu > 0
    if budget.gpu_hours is not None and not takes_gpu:
        yield StudyProblem(
            field="budget.gpu_hours",
            value=str(budget.gpu_hours),
            allowed="no worker of the study is given a GPU (resources.trial.gpu, "
            "resources.merge.gpu): limit cpu_hours",
        )
    price = "usd_per_gpu_hour" if takes_gpu else "usd_per_cpu_hour"
    if budget.usd is not None and not getattr(budget, price):
        yield StudyProblem(
            field="budget.usd",
            value=str(budget.usd),
            allowed=f"it needs a price above 0, budget.{price}",
        )
