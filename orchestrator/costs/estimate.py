"""Estimates of the work and the bytes of a study, with the sources of the figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.costs.durations import GUESS_GPU_FLOPS_PER_S, Basis, Duration, Durations
from orchestrator.costs.sizes import Sizes
from orchestrator.costs.usage import Usage, usage_of
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.study.resources import Share
from workers.calibrate.speeds import Calibration
from workers.models.model_sizes import ModelSize

_BASIS_TEXT: dict[Basis, str] = {
    "measured": "measured in this store",
    "calibrated": "calibrated",
    "related": "measured on other backbones of the study",
    "guessed": "a guess from the backbone's floating point operations, at EfficientNet-Lite0's "
    "speed on one CPU core; better after the first trials, or with "
    "mergesweep plan STUDY.yaml --calibrate",
}
_GUESSED_ON_GPU = (
    "a guess from the backbone's floating point operations, at "
    f"{GUESS_GPU_FLOPS_PER_S / 1e12:g} TFLOP/s per GPU; better after the first trials, or with "
    "mergesweep plan STUDY.yaml --calibrate on a node with such a GPU"
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The remaining work of a study."""

    train_s: float
    """Worker-seconds of the missing trainings."""
    merge_s: float
    """Worker-seconds of the missing merge jobs."""
    usage: Usage
    """The worker-seconds times the workers' shares; without bytes."""
    num_trainings: int
    """The number of missing trainings."""
    sources: str
    """The sources of the times, in words; empty if nothing is left."""

    @property
    def is_anything_left(self) -> bool:
        """Returns whether any training or merge is missing."""
        return bool(self.sources)

    def wall_s(self, *, num_slots: int, extra_s: float = 0.0) -> float:
        """Returns the seconds that the work takes on a number of workers at once.

        Args:
            num_slots: The number of workers.
            extra_s: Seconds that a training holds its worker beyond its own work, such as the
                driver's part in it.
        """
        return (self.train_s + self.merge_s + self.num_trainings * extra_s) / num_slots


def estimate(
    committed: Committed,
    *,
    calibration: Calibration | None,
    models: Mapping[str, ModelSize] | None = None,
) -> Estimate:
    """Estimates the remaining work of a study; see `Durations` for the arguments."""
    durations = Durations(committed, calibration=calibration, models=models)
    trainings = [durations.training(each) for each in committed.missing_trainings]
    merges = [durations.merge(spec) for spec in committed.missing_merges]
    train_s, merge_s = (sum(each.seconds for each in jobs) for jobs in (trainings, merges))
    resources = committed.plan.study.resources
    sources = {
        "trials": _sources(trainings, calibration=calibration, share=resources.trial),
        "merge jobs": _sources(merges, calibration=calibration, share=resources.merge),
    }
    return Estimate(
        train_s=train_s,
        merge_s=merge_s,
        num_trainings=len(trainings),
        usage=usage_of(train_s, share=resources.trial) + usage_of(merge_s, share=resources.merge),
        sources=_sources_text({jobs: text for jobs, text in sources.items() if text}),
    )


def _sources(
    durations: Iterable[Duration], *, calibration: Calibration | None, share: Share
) -> str:
    """Returns the sources of some durations in words; empty for no durations."""
    found = {each.basis for each in durations}
    return " and ".join(
        _basis_text(basis, calibration=calibration, share=share)
        for basis in _BASIS_TEXT
        if basis in found
    )


def _sources_text(sources: Mapping[str, str]) -> str:
    """Joins the sources of trials and merge jobs, which often are the same."""
    if len(set(sources.values())) <= 1:
        return next(iter(sources.values()), "")
    return "; ".join(f"{jobs}: {text}" for jobs, text in sources.items())


def _basis_text(basis: Basis, *, calibration: Calibration | None, share: Share) -> str:
    if basis == "guessed" and share.gpu:
        return _GUESSED_ON_GPU
    if basis != "calibrated" or calibration is None:
        return _BASIS_TEXT[basis]
    at = datetime.fromtimestamp(calibration.at_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"calibrated on {calibration.device_name} at {at}, one worker alone"


@dataclass(frozen=True, kw_only=True)
class StoreEstimate:
    """The bytes of a complete study in the store.

    None stands for a model that timm does not know.
    """

    base_bytes: int | None
    """All bases, pretrained ones included."""
    expert_bytes: int | None
    """All experts."""
    merge_bytes: int | None
    """The weights of merges that keep them; 0 if none does."""
    data_bytes: int
    """Images and labels of all tasks."""
    checkpoint_bytes: int | None
    """Checkpoints while the study runs: the largest of as many trials as run at once."""


def estimate_store(plan: Plan, *, sizes: Sizes, num_slots: int) -> StoreEstimate:
    """Estimates the bytes of a complete study, on a number of workers at once."""
    experts = [sizes.expert_bytes(each) for each in plan.experts.values()]
    bases = [sizes.base_bytes(each) for each in plan.bases.by_id]
    checkpoints = [sizes.checkpoint_bytes(each) for each in plan.trainings]
    known_checkpoints = sorted((each for each in checkpoints if each is not None), reverse=True)
    return StoreEstimate(
        base_bytes=_known_sum(bases),
        expert_bytes=_known_sum(experts),
        merge_bytes=_known_sum([sizes.merge_bytes(each) for each in plan.merges.values()]),
        data_bytes=sum(sizes.data_bytes(each) for each in plan.datasets),
        checkpoint_bytes=sum(known_checkpoints[:num_slots]) if known_checkpoints else None,
    )


def _known_sum(sizes: Sequence[int | None]) -> int | None:
    known = [each for each in sizes if each is not None]
    return sum(known) if len(known) == len(sizes) else None
