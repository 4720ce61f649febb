"""How long a study takes and how much it stores, and what these figures rest on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.costs.durations import GUESS_GPU_FLOPS_PER_S, Basis, Duration, Rates
from orchestrator.costs.sizes import Sizes
from orchestrator.costs.usage import Usage, usage_of
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.study.resources import Resources, Share
from workers.calibrate.speeds import Calibration
from workers.models.model_sizes import ModelSize

_WORDS: dict[Basis, str] = {
    "measured": "measured in this store",
    "calibrated": "calibrated",
    "related": "measured on other backbones of the study",
    "guessed": "a guess by the backbone's floating point operations, at EfficientNet-Lite0's speed "
    "on one CPU core; better after the first trials, or by mergesweep plan STUDY.yaml --calibrate",
}
_GUESSED_ON_GPU = (
    "a guess by the backbone's floating point operations, at "
    f"{GUESS_GPU_FLOPS_PER_S / 1e12:g} TFLOP/s a GPU; better after the first trials, or by "
    "mergesweep plan STUDY.yaml --calibrate on a node with such a GPU"
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do, in workers' time."""

    train_s: float
    """Worker-seconds of the trials and the pretraining that are missing."""
    merge_s: float
    """Worker-seconds of the merge jobs that are missing."""
    usage: Usage
    """The same times what the workers are given; without bytes."""
    basis: str
    """What the times are taken from."""

    def wall_s(self, *, num_slots: int) -> float:
        """Returns the time that this takes on so many workers."""
        return (self.train_s + self.merge_s) / num_slots


def estimate(
    committed: Committed,
    *,
    calibration: Calibration | None,
    models: Mapping[str, ModelSize] | None = None,
) -> Estimate:
    """Estimates the time of what is left of a plan; see `Rates` for where it comes from."""
    rates = Rates(committed, calibration=calibration, models=models)
    trials = [rates.training(each) for each in committed.missing_trainings]
    merges = [rates.merge(spec) for spec in committed.missing_merges]
    train_s, merge_s = (sum(each.seconds for each in jobs) for jobs in (trials, merges))
    resources = committed.plan.study.resources
    return Estimate(
        train_s=train_s,
        merge_s=merge_s,
        usage=usage_of(train_s, share=resources.trial) + usage_of(merge_s, share=resources.merge),
        basis=_basis(trials=trials, merges=merges, calibration=calibration, resources=resources),
    )


def _basis(
    *,
    trials: Iterable[Duration],
    merges: Iterable[Duration],
    calibration: Calibration | None,
    resources: Resources,
) -> str:
    parts = {
        "trials": ({each.basis for each in trials}, resources.trial),
        "merge jobs": ({each.basis for each in merges}, resources.merge),
    }
    said = {
        what: " and ".join(
            _said(basis, calibration=calibration, share=share) for basis in _WORDS if basis in found
        )
        for what, (found, share) in parts.items()
        if found
    }
    if len(set(said.values())) <= 1:
        return next(iter(said.values()), "nothing is left")
    return "; ".join(f"{what}: {words}" for what, words in said.items())


def _said(basis: Basis, *, calibration: Calibration | None, share: Share) -> str:
    if basis == "guessed" and share.gpu:
        return _GUESSED_ON_GPU
    if basis != "calibrated" or calibration is None:
        return _WORDS[basis]
    at = datetime.fromtimestamp(calibration.at_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"calibrated on {calibration.device_name} at {at}, one worker alone"


@dataclass(frozen=True, kw_only=True)
class StoreEstimate:
    """What the store holds of a study when it is whole, and while it runs."""

    base_bytes: int | None
    """All bases, the pretrained ones too; None for a model that timm does not know."""
    expert_bytes: int | None
    """All experts; None for a model that timm does not know."""
    data_bytes: int
    """Images and labels of all tasks."""
    checkpoint_bytes: int | None
    """Resumable checkpoints of as many trials as run at once, the largest."""


def estimate_store(plan: Plan, *, sizes: Sizes, num_slots: int) -> StoreEstimate:
    """Works the bytes out from the specifications."""
    experts = [sizes.expert_bytes(each) for each in plan.experts.values()]
    bases = [sizes.base_bytes(each) for each in plan.bases.by_id]
    checkpoints = [sizes.checkpoint_bytes(each) for each in plan.trainings]
    known_checkpoints = sorted((each for each in checkpoints if each is not None), reverse=True)
    return StoreEstimate(
        base_bytes=_known_sum(bases),
        expert_bytes=_known_sum(experts),
        data_bytes=sum(sizes.data_bytes(each) for each in plan.datasets),
        checkpoint_bytes=sum(known_checkpoints[:num_slots]) if known_checkpoints else None,
    )


def _known_sum(sizes: Sequence[int | None]) -> int | None:
    known = [each for each in sizes if each is not None]
    return sum(known) if len(known) == len(sizes) else None
