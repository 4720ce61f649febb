"""The study file's sections `resources` and `budget`: shares of a worker, limits of a study."""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from orchestrator.study.problems import StudyProblem
from orchestrator.study.section import Section

AUTO = "auto"
"""The value of `resources.trial.gpu` that leaves the number to a calibration."""
Limit = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]
LEAST_AMOUNT = 0.0001
"""The smallest part of a core or GPU that Ray counts."""


def _countable(amount: float) -> float:
    if 0 < amount < LEAST_AMOUNT:
        raise ValueError(f"expected {LEAST_AMOUNT} or more: Ray counts no smaller part")
    return amount


def _countable_gpus(amount: float) -> float:
    if amount > 1 and not amount.is_integer():
        raise ValueError("expected at most 1, or a whole number: a worker shares one GPU at most")
    return _countable(amount)


Cores = Annotated[float, Field(gt=0), AfterValidator(_countable)]
Gpus = Annotated[float, Field(ge=0), AfterValidator(_countable_gpus)]


class Share(Section):
    """The cores and GPUs that one worker gets."""

    cpu: Cores = 1
    gpu: Gpus = 0
    """With a fraction, several workers share one GPU."""

    def amounts(self) -> dict[str, float]:
        """Returns the amount of each resource."""
        return {"cpu": self.cpu, "gpu": self.gpu}


def _number_of_gpus(value: object) -> object:
    """Returns one GPU for `auto`; the share of a study that was calibrated replaces it."""
    if value == AUTO:
        return 1.0
    if isinstance(value, str):
        raise ValueError(f"expected 0 or more GPUs, or {AUTO}")  # noqa: TRY004 pydantic's own
    return value


class TrialShare(Share):
    """The cores and GPUs of the worker of a trial."""

    gpu: Annotated[Gpus, BeforeValidator(_number_of_gpus)] = 0
    """With a fraction, several workers share one GPU. `auto`: the fraction that a calibration
    proposes, one GPU until there is one."""
    _is_auto: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _note_auto(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 as written
        share = validate(values)
        if isinstance(values, dict):
            share._is_auto = values.get("gpu") == AUTO  # noqa: SLF001 its own
        return share

    @property
    def is_auto(self) -> bool:
        """Whether the study leaves the number of GPUs to a calibration."""
        return self._is_auto

    def with_gpu(self, gpu: float) -> Self:
        """Returns the share with a measured number of GPUs; it is `auto` still."""
        return self.model_copy(update={"gpu": gpu})


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

    trial: TrialShare = TrialShare()
    merge: Share = Share()
    priority: int = 0
    """Among the studies on a cluster, higher priorities go first and equal priorities share."""
    quota: Quota = Quota()

    def with_trial_gpu(self, gpu: float) -> Self:
        """Returns the resources with a measured number of GPUs for a trial."""
        return self.model_copy(update={"trial": self.trial.with_gpu(gpu)})


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
    """In the store, in 10^9 bytes: bases, images, experts, kept merges; no checkpoints."""

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
