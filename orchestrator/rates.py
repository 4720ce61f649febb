"""How long each trial and merge job takes: measured, calibrated, or a stated guess."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from eval.tasks import find_task
from orchestrator.ledger import Ledger
from orchestrator.plan import Plan
from workers.calibration import Calibration, file_key, image_key, merge_key, train_key
from workers.manifests import Manifest
from workers.specs import ExpertSpec, MergeSpec, TrialSpec

# EfficientNet-Lite0 at 64 pixels on one CPU core, float32.
GUESS_TRAIN_S_PER_IMAGE = 0.011
GUESS_MERGE_S_PER_IMAGE = 0.002
GUESS_PIXELS = 64 * 64

Key = TypeVar("Key")
Basis = Literal["measured", "calibrated", "guessed"]


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a job takes in a worker, and how that is known."""

    seconds: float
    basis: Basis


class Rates:
    """Durations from what is at hand when it is made; a ledger that grows makes better ones.

    A job that is like committed ones takes what these took. Otherwise a calibration says, and then
    committed jobs of the same backbone, whatever their batch size or method. The last resort is a
    guess for the default backbone on one CPU core, scaled by the number of pixels.
    """

    def __init__(self, ledger: Ledger, *, calibration: Calibration | None) -> None:
        self._speeds: Mapping[str, float] = calibration.speeds if calibration else {}
        self._models = {ledger.plan.base.spec.id: ledger.plan.base.spec.model}
        self._data = {data.id: data for data in ledger.plan.datasets}
        self._num_images = {
            task: num_test_images(ledger.plan, task=task) for task in ledger.plan.study.task_names
        }
        trained = list(_train_rates(ledger))
        self._train = _medians((_train_kind(spec), rate) for spec, rate in trained)
        self._train_of_base = _medians((spec.base_id, rate) for spec, rate in trained)
        # Other threads add to the ledger: a list of its values is made at once.
        done = list(ledger.merges.values())
        merged = [(ledger.plan.merges[each.id], each) for each in done]
        self._merge = _medians((_merge_kind(spec), _merge_s(each)) for spec, each in merged)
        self._merge_of_base = _medians((spec.base_id, _merge_s(each)) for spec, each in merged)
        self._image = _medians((_merge_kind(spec), _image_s(each)) for spec, each in merged)
        self._image_of_base = _medians((spec.base_id, _image_s(each)) for spec, each in merged)

    def trial(self, trial: TrialSpec) -> Duration:
        """Returns how long a whole trial takes, its evaluations and its files included."""
        spec = trial.longest
        num_images = spec.steps * spec.batch_size
        if (rate := self._train.get(_train_kind(spec))) is not None:
            return Duration(seconds=num_images * rate, basis="measured")
        if (seconds := self._calibrated_trial(trial)) is not None:
            return Duration(seconds=seconds, basis="calibrated")
        if (rate := self._train_of_base.get(spec.base_id)) is not None:
            return Duration(seconds=num_images * rate, basis="measured")
        guess = GUESS_TRAIN_S_PER_IMAGE * self._guess_scale(spec)
        return Duration(seconds=num_images * guess, basis="guessed")

    def merge(self, spec: MergeSpec) -> Duration:
        """Returns how long a merge job takes: to merge, and to evaluate on every task."""
        members = (*spec.experts, *spec.held_out)
        num_images = sum(self._num_images[expert.task] for expert in members)
        kind = _merge_kind(spec)
        if kind in self._merge:
            seconds = len(spec.experts) * self._merge[kind] + num_images * self._image[kind]
            return Duration(seconds=seconds, basis="measured")
        first = spec.experts[0]
        size, model = self._image_size(first), self._models[first.base_id]
        per_expert = self._speeds.get(merge_key(model, image_size=size, merge=spec))
        per_image = self._speeds.get(image_key(model, image_size=size))
        if per_expert is not None and per_image is not None:
            seconds = len(spec.experts) * per_expert + num_images * per_image
            return Duration(seconds=seconds, basis="calibrated")
        if spec.base_id in self._merge_of_base:
            per_expert = self._merge_of_base[spec.base_id]
            seconds = len(spec.experts) * per_expert
            seconds += num_images * self._image_of_base[spec.base_id]
            return Duration(seconds=seconds, basis="measured")
        guess = GUESS_MERGE_S_PER_IMAGE * self._guess_scale(first)
        return Duration(seconds=num_images * guess, basis="guessed")

    def _calibrated_trial(self, trial: TrialSpec) -> float | None:
        """Adds up steps, an evaluation and a file a snapshot, and one evaluation of the base."""
        spec = trial.longest
        size, model = self._image_size(spec), self._models[spec.base_id]
        step_s = self._speeds.get(train_key(model, image_size=size, expert=spec))
        image_s = self._speeds.get(image_key(model, image_size=size))
        if step_s is None or image_s is None:
            return None
        num_images = self._num_images[spec.task]
        file_s = self._speeds.get(file_key(model), 0.0)
        num_snapshots = len(trial.snapshots)
        return (
            spec.steps * step_s
            + (num_snapshots + 1) * num_images * image_s
            + num_snapshots * file_s
        )

    def _image_size(self, spec: ExpertSpec) -> int:
        return self._data[spec.data_id].image_size

    def _guess_scale(self, spec: ExpertSpec) -> float:
        return self._image_size(spec) ** 2 / GUESS_PIXELS


def num_test_images(plan: Plan, *, task: str) -> int:
    """Returns how many images a task is evaluated on."""
    tasks, found = plan.study.tasks, find_task(task)
    available = found.num_train // 5 if tasks.evaluate_on == "validation" else found.num_test
    return min(available, tasks.max_test or available)


def num_train_images(plan: Plan, *, task: str) -> int:
    """Returns how many training images of a task the store keeps."""
    tasks, found = plan.study.tasks, find_task(task)
    held_out = found.num_train // 5 if tasks.evaluate_on == "validation" else 0
    available = found.num_train - held_out
    return min(available, tasks.max_train or available)


def _train_rates(ledger: Ledger) -> Iterable[tuple[ExpertSpec, float]]:
    for expert_id, manifest in list(ledger.experts.items()):
        steps = manifest.metrics["steps_taken"]
        if steps:
            spec = ledger.plan.experts[expert_id]
            yield spec, manifest.seconds["trial"] / (steps * spec.batch_size)


def _train_kind(spec: ExpertSpec) -> tuple[object, ...]:
    """Returns what trials with equal seconds an image have in common."""
    return spec.base_id, spec.batch_size, spec.optimizer


def _merge_kind(spec: MergeSpec) -> tuple[object, ...]:
    """Returns what merge jobs with equal seconds an expert and an image have in common."""
    params = str(sorted(spec.params.items()))
    settings = spec.batch_norm, spec.recalibration_images, spec.surgery
    return spec.base_id, spec.method, params, *settings


def _merge_s(manifest: Manifest) -> float:
    """Returns the seconds of merging, an expert."""
    return manifest.seconds["merge"] / max(1, len(manifest.spec["experts"]))


def _image_s(manifest: Manifest) -> float:
    images = sum(sums["num_examples"] for sums in manifest.metrics["tasks"].values())
    return float(manifest.seconds["evaluate"] / max(1, images))


def _medians(rates: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    found: dict[Key, list[float]] = {}
    for key, rate in rates:
        found.setdefault(key, []).append(rate)
    return {key: statistics.median(each) for key, each in found.items()}
