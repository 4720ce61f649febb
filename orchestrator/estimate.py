"""How long a study takes and how much it stores: from what was measured, or a stated guess."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
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


def estimate(ledger: Ledger) -> Estimate:
    """Estimates what is left of a plan.

    Seconds per image come from the experts and merges that the store has, of the same model where
    there are some; while it has none, from a guess for the default backbone on one CPU core, scaled
    by the number of pixels.
    """
    plan = ledger.plan
    scale = plan.study.backbone.image_size**2 / GUESS_PIXELS
    train = _Rates(_train_rates(ledger), guess=GUESS_TRAIN_S_PER_IMAGE * scale)
    merge = _Rates(_merge_rates(ledger), guess=GUESS_MERGE_S_PER_IMAGE * scale)
    return Estimate(
        train_s=sum(images * train.of(model) for model, images in _images_left(ledger)),
        merge_s=sum(images * merge.of(model) for model, images in _merged_images_left(ledger)),
        expert_bytes=_expert_bytes(ledger),
        basis="measured in this store"
        if train.measured and merge.measured
        else "a guess for EfficientNet-Lite0 on CPU cores; better after the first trials",
    )


class _Rates:
    """Seconds per image by model, from (model, seconds) pairs."""

    def __init__(self, measured: Iterable[tuple[str, float]], *, guess: float) -> None:
        self.measured: dict[str, list[float]] = {}
        for model, rate in measured:
            self.measured.setdefault(model, []).append(rate)
        self._guess = guess

    def of(self, model: str) -> float:
        """Returns the median of the model, else of all models, else the guess."""
        everything = [rate for rates in self.measured.values() for rate in rates]
        rates = self.measured.get(model, everything)
        return statistics.median(rates) if rates else self._guess


def _images_left(ledger: Ledger) -> Iterator[tuple[str, int]]:
    """Yields model and training images of every pretraining and trial that is missing."""
    for run in ledger.missing_pretraining():
        yield run.longest.model, run.num_steps * run.pretrain.batch_size
    for trial in ledger.missing_trials():
        yield _model(ledger.plan, trial.longest.base_id), trial.num_steps * trial.longest.batch_size


def _merged_images_left(ledger: Ledger) -> Iterator[tuple[str, float]]:
    num_images = _num_test_images(ledger.plan)
    for spec in ledger.plan.merges.values():
        if spec.id not in ledger.merges:
            num_tasks = len(spec.experts) + len(spec.held_out)
            yield _model(ledger.plan, spec.base_id), num_images * num_tasks


def _train_rates(ledger: Ledger) -> Iterator[tuple[str, float]]:
    for expert_id, manifest in ledger.experts.items():
        steps, spec = manifest.metrics["steps_taken"], ledger.plan.experts[expert_id]
        if steps:
            rate = manifest.seconds["trial"] / (steps * spec.batch_size)
            yield _model(ledger.plan, spec.base_id), rate


def _merge_rates(ledger: Ledger) -> Iterator[tuple[str, float]]:
    for merge_id, manifest in ledger.merges.items():
        images = sum(sums["num_examples"] for sums in manifest.metrics["tasks"].values())
        model = _model(ledger.plan, ledger.plan.merges[merge_id].base_id)
        yield model, sum(manifest.seconds.values()) / images


def _model(plan: Plan, base_id: str) -> str:
    return plan.bases.by_id[base_id].model


def _num_test_images(plan: Plan) -> float:
    """Returns the mean number of test images a task."""
    tasks = plan.study.tasks
    sizes = [
        source.task.num_train // 5 if tasks.evaluate_on == "validation" else source.task.num_test
        for source in plan.sources.values()
    ]
    return statistics.mean(min(size, tasks.max_test or size) for size in sizes)


def _expert_bytes(ledger: Ledger) -> int | None:
    plan = ledger.plan
    sizes = {base_id: _base_bytes(ledger, base_id) for base_id in plan.bases.by_id}
    of_experts = [sizes[expert.base_id] for expert in plan.experts.values()]
    known = [size for size in of_experts if size is not None]
    return sum(known) if len(known) == len(of_experts) else None


def _base_bytes(ledger: Ledger, base_id: str) -> int | None:
    """Returns the size of a base, or of one of the same model; None where neither is known."""
    model = _model(ledger.plan, base_id)
    for manifest in ledger.bases.values():
        if manifest.files and _model(ledger.plan, manifest.id) == model:
            return sum(file.size_bytes for file in manifest.files)
    try:
        return packaged_path(model).stat().st_size if model in PACKAGED else None
    except WeightsError:
        return None
