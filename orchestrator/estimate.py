"""How long a study takes and how much it stores: from what was measured, or a stated guess."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from workers.manifests import Manifest
from workers.weights import PACKAGED, WeightsError, packaged_path

# EfficientNet-Lite0 at 64 pixels on one CPU core, float32.
GUESS_TRAIN_S_PER_IMAGE = 0.011
GUESS_MERGE_S_PER_IMAGE = 0.002
GUESS_PIXELS = 64 * 64


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do, in worker-seconds and bytes."""

    train_s: float
    """Worker-seconds of the trials that are missing."""
    merge_s: float
    """Worker-seconds of the merge jobs that are missing."""
    expert_bytes: int | None
    """Bytes of all experts together; None while the size of the base is not known."""
    basis: str
    """What the times are taken from."""

    def wall_s(self, *, num_slots: int) -> float:
        """Returns the time that this takes on so many workers."""
        return (self.train_s + self.merge_s) / num_slots


def estimate(ledger: Ledger, *, base: Manifest | None) -> Estimate:
    """Estimates what is left of a plan.

    Seconds per image come from the experts and merges that the store has; while it has none, from
    a guess for the default backbone on one CPU core, scaled by the number of pixels.
    """
    plan = ledger.plan
    train_s = _median(_train_rates(ledger))
    merge_s = _median(_merge_rates(ledger))
    scale = plan.study.backbone.image_size**2 / GUESS_PIXELS
    images = sum(
        trial.longest.steps * trial.longest.batch_size for trial in ledger.missing_trials()
    )
    merged_images = sum(
        _num_test_images(plan) * (len(spec.experts) + len(spec.held_out))
        for spec in plan.merges.values()
        if spec.id not in ledger.merges
    )
    return Estimate(
        train_s=images * (train_s or GUESS_TRAIN_S_PER_IMAGE * scale),
        merge_s=merged_images * (merge_s or GUESS_MERGE_S_PER_IMAGE * scale),
        expert_bytes=_expert_bytes(plan, base=base),
        basis="measured in this store"
        if train_s and merge_s
        else "a guess for EfficientNet-Lite0 on CPU cores; better after the first trials",
    )


def _train_rates(ledger: Ledger) -> Iterable[float]:
    for expert_id, manifest in ledger.experts.items():
        steps = manifest.metrics["steps_taken"]
        if steps:
            batch_size = ledger.plan.experts[expert_id].batch_size
            yield manifest.seconds["trial"] / (steps * batch_size)


def _merge_rates(ledger: Ledger) -> Iterable[float]:
    for manifest in ledger.merges.values():
        images = sum(sums["num_examples"] for sums in manifest.metrics["tasks"].values())
        yield sum(manifest.seconds.values()) / images


def _median(rates: Iterable[float]) -> float | None:
    found = list(rates)
    return statistics.median(found) if found else None


def _num_test_images(plan: Plan) -> float:
    """Returns the mean number of test images a task."""
    tasks = plan.study.tasks
    sizes = [
        source.task.num_train // 5 if tasks.evaluate_on == "validation" else source.task.num_test
        for source in plan.sources.values()
    ]
    return statistics.mean(min(size, tasks.max_test or size) for size in sizes)


def _expert_bytes(plan: Plan, *, base: Manifest | None) -> int | None:
    model = plan.study.backbone.model
    if base is not None:
        size = sum(file.size_bytes for file in base.files)
    elif model in PACKAGED:
        try:
            size = packaged_path(model).stat().st_size
        except WeightsError:
            return None
    else:
        return None
    return size * len(plan.experts)
