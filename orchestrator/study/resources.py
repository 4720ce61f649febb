"""The study file's sections `resources` and `budget`: shares of a worker, limits of a study."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from orchestrator.study.problems import StudyProblem
from orchestrator.study.section import Section

Limit = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class Share(Section):
    """The cores and GPUs that one worker gets."""

    cpu: Annotated[float, Field(gt=0)] = 1
    gpu: Annotated[float, Field(ge=0)] = 0
    """With a fraction, several workers share one GPU."""

    def amounts(self) -> dict[str, float]:
        """Returns the amount of each resource."""
        return {"cpu": self.cpu, "gpu": self.gpu}


class Quota(Section):
    """The most that all workers of a study together may hold of a cluster."""

    cpu: Limit | None = None
    """Cores."""
    gpu: Annotated[float, Field(ge=0)] | None = None
    """GPUs."""

    def limits(self) -> dict[str, float]:
        """Returns the limit of each limited resource."""
        return {name: value for name, value in self if value is not None}


class Resources(Section):
    """The resources of trials and merge jobs; no id of an artifact depends on them."""

    trial: Share = Share()
    merge: Share = Share()
    priority: int = 0
    """Among the studies on a cluster, higher priorities go first and equal priorities share."""
    quota: Quota = Quota()


class Budget(Section):
    """Limits on what a study uses in total; no id of an artifact depends on them.

    Every committed artifact of the plan counts, no matter which study made it: the seconds in its
    manifest times a worker's share, and the bytes of its files.
    """

    gpu_hours: Limit | None = None
    """Hours of workers times the GPUs that each worker gets."""
    cpu_hours: Limit | None = None
    """Hours of workers times the cores that each worker gets."""
    usd: Limit | None = None
    """Dollars at the prices below. A study with GPUs needs the price of a GPU, others that of a
    core."""
    usd_per_gpu_hour: Price | None = None
    usd_per_cpu_hour: Price | None = None
    """For one core."""
    gigabytes: Limit | None = None
    """In the store, in 10^9 bytes: bases, images and experts. Checkpoints do not count."""

    def limits(self) -> dict[str, float]:
        """Returns the limits of the study, by field."""
        fields = ("gpu_hours", "cpu_hours", "usd", "gigabytes")
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


def check_quota(resources: Resources) -> Iterator[StudyProblem]:
    """Yields quotas that are too small for a single worker."""
    shares = {"trial": resources.trial.amounts(), "merge": resources.merge.amounts()}
    for name, limit in resources.quota.limits().items():
        kind = max(shares, key=lambda each: shares[each][name])
        needed = shares[kind][name]
        if limit < needed:
            yield StudyProblem(
                field=f"resources.quota.{name}",
                fault=f"{limit:g} is not allowed",
                remedy=f"one worker gets {needed:g} (resources.{kind}.{name}), so the quota must "
                f"be at least {needed:g}",
            )


def check_budget(budget: Budget, *, resources: Resources) -> Iterator[StudyProblem]:
    """Yields limits that no study of these resources can reach, and dollars without a price."""
    has_gpu = resources.trial.gpu > 0 or resources.merge.gpu > 0
    if budget.gpu_hours is not None and not has_gpu:
        yield StudyProblem(
            field="budget.gpu_hours",
            fault=f"{budget.gpu_hours:g} is not allowed",
            remedy="no worker of the study gets a GPU (resources.trial.gpu, resources.merge.gpu); "
            "limit cpu_hours instead",
        )
    price = "usd_per_gpu_hour" if has_gpu else "usd_per_cpu_hour"
    if budget.usd is not None and not getattr(budget, price):
        yield StudyProblem(
            field="budget.usd",
            fault=f"{budget.usd:g} is not allowed",
            remedy=f"dollars need a price: set budget.{price} above 0",
        )
