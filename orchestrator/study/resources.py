"""The study file's sections on what workers are given and what a study may use at most."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from orchestrator.study.problems import StudyProblem
from orchestrator.study.section import Section

Limit = Annotated[float, Field(gt=0, description="above 0")] | None


class Share(Section):
    """What one worker process is given."""

    cpu: Annotated[float, Field(gt=0)] = 1
    gpu: Annotated[float, Field(ge=0)] = 0
    """A fraction lets several workers share one GPU."""

    def amounts(self) -> dict[str, float]:
        """Returns what is given, by resource."""
        return {"cpu": self.cpu, "gpu": self.gpu}


class Quota(Section):
    """What the workers of a study may hold of a cluster at once, at most."""

    cpu: Annotated[float, Field(gt=0, description="cores, above 0")] | None = None
    gpu: Annotated[float, Field(ge=0, description="GPUs, 0 or more")] | None = None

    def limits(self) -> dict[str, float]:
        """Returns what is limited, by resource."""
        return {name: value for name, value in self if value is not None}


class Resources(Section):
    """What trials and merge jobs are given; never part of a result's identity."""

    trial: Share = Share()
    merge: Share = Share()
    priority: int = 0
    """Among the studies on a cluster the higher goes first; equals share it."""
    quota: Quota = Quota()


def check_quota(resources: Resources) -> Iterator[StudyProblem]:
    """Yields quotas that have no room for a single worker, so that nothing could ever run."""
    shares = {"trial": resources.trial.amounts(), "merge": resources.merge.amounts()}
    for name, limit in resources.quota.limits().items():
        kind = max(shares, key=lambda each: shares[each][name])
        needed = shares[kind][name]
        if limit < needed:
            yield StudyProblem(
                field=f"resources.quota.{name}",
                value=f"{limit:g}",
                allowed=f"one worker is given {needed:g} (resources.{kind}.{name}): "
                "at least as much is expected",
            )


class Budget(Section):
    """What a study may use at most; never part of a result's identity.

    Counted are committed artifacts that the plan names, whoever made them: the seconds in their
    manifests times a worker's share, and the bytes of their files.
    """

    gpu_hours: Limit = None
    """Hours of workers times the share of a GPU that each is given."""
    cpu_hours: Limit = None
    """Hours of workers times the cores that each is given."""
    usd: Limit = None
    """At the prices below, of which the study needs one."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    usd_per_cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one core."""
    gigabytes: Limit = None
    """In the store, in 10^9 bytes: base, images and experts; checkpoints in flight come and go."""

    def limits(self) -> dict[str, float]:
        """Returns what is limited, by field."""
        fields = ("gpu_hours", "cpu_hours", "usd", "gigabytes")
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


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
