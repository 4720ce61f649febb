"""The duration of each training and merge job: measured, calibrated, or a guess."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.costs.measured import JobKinds, MeasuredSpeeds, image_factor, step_factor
from orchestrator.costs.sizes import num_test_images, num_train_images, num_validation_images
from orchestrator.record.committed import Committed
from workers.calibrate.speeds import Calibration, file_key, image_key, train_key
from workers.models.model_sizes import ModelSize
from workers.specs.merge import MergeSpec, num_merges_tried, num_validation_passes
from workers.specs.training import Training

GUESS_TRAIN_S_PER_IMAGE = 0.011
GUESS_MERGE_S_PER_IMAGE = 0.002
"""Seconds to train on an image and to evaluate one: EfficientNet-Lite0 at 64 pixels on one CPU
core, in float32."""
GUESS_PIXELS = 64 * 64
GUESS_FLOPS_PER_PIXEL = 15_302.4375
"""Floating point operations of that model's forward pass, per pixel of the image."""
GUESS_GPU_FLOPS_PER_S = 5e12
"""Speed of a whole GPU in float32: a third of a V100's peak. It was never timed."""
PASSES_PER_STEP = 3
"""Forward passes that a step is as long as: a backward pass takes as long as two."""

Basis = Literal["measured", "calibrated", "related", "guessed"]
"""The source of a duration. `measured`: committed jobs of the same kind or model. `calibrated`: a
calibration. `related`: committed jobs of the study's other models. `guessed`: a constant."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """The seconds that a worker needs for a job, and their source."""

    seconds: float
    basis: Basis


class Durations:
    """Estimates of the durations of a plan's jobs, from one snapshot of its committed artifacts.

    The first source that knows a job decides:

    1. the median of committed jobs of the same kind
    2. the calibration, if there is one
    3. the median of committed jobs of the same model, whatever their kind, then of other models
    4. a guess from the backbone's floating point operations: at the default backbone's speed on one
       CPU core, or at a rounded speed of the worker's share of a GPU
    """

    def __init__(
        self,
        committed: Committed,
        *,
        calibration: Calibration | None,
        models: Mapping[str, ModelSize] | None = None,
    ) -> None:
        """Creates the estimates.

        Args:
            committed: The plan, and the manifests of its committed artifacts.
            calibration: Timed speeds of the study's jobs; None if there is no calibration.
            models: Sizes of the backbones by the ids of their bases, for the guess. A backbone
                without a size counts as the default backbone.
        """
        plan = committed.plan
        self._resources = plan.study.resources
        self._kinds = JobKinds.of(plan)
        self._measured = MeasuredSpeeds.of(committed, kinds=self._kinds)
        self._calibrated: Mapping[str, float] = calibration.speeds if calibration else {}
        self._num_test_images = {task: num_test_images(plan, task=task) for task in plan.sources}
        self._num_train_images = {task: num_train_images(plan, task=task) for task in plan.sources}
        self._num_validation_images = {
            task: num_validation_images(plan, task=task) for task in plan.sources
        }
        self._flops_per_pixel = {
            base_id: flops
            for base_id, size in (models or {}).items()
            if (flops := size.flops_per_pixel) is not None
        }

    def training(self, training: Training) -> Duration:
        """Returns the duration of a whole training, evaluations and files included."""
        recipe, base_id = training.recipe, training.base_id
        model, speeds = self._kinds.models[base_id], self._measured.training
        num_images: float = training.num_steps * recipe.hyperparameters.batch_size
        per_image = speeds.by_kind.get(self._kinds.training(recipe, base_id=base_id))
        if per_image is not None:
            return Duration(seconds=num_images * per_image, basis="measured")
        if (seconds := self._calibrated_training(training)) is not None:
            return Duration(seconds=seconds, basis="calibrated")
        num_images *= step_factor(recipe)
        if (per_image := speeds.of_model(model)) is not None:
            return Duration(seconds=num_images * per_image, basis=_near(model, speeds.by_model))
        guess = GUESS_TRAIN_S_PER_IMAGE * self._size_beside_default(base_id)
        if gpu := self._resources.trial.gpu:
            guess = PASSES_PER_STEP * self._forward_s(base_id, gpu=gpu)
        return Duration(seconds=num_images * guess, basis="guessed")

    def merge(self, spec: MergeSpec) -> Duration:
        """Returns the duration of a merge job: merging, and evaluation on every task.

        Choices add merges, and passes over the validation images; temperatures of heads add a pass.
        """
        members = (*spec.experts, *spec.held_out)
        num_images: float = sum(self._num_test_images[expert.task] for expert in members)
        num_experts, model = len(spec.merged), self._kinds.models[spec.base_id]
        num_validated = sum(self._num_validation_images[each.task] for each in spec.experts)
        if num_passes := num_validation_passes(spec):
            num_images += num_passes * num_validated
            num_experts *= 1 + num_merges_tried(spec)
        kind, merging, evaluating = (
            self._kinds.merge(spec),
            self._measured.merging,
            self._measured.evaluating,
        )
        if kind in merging.by_kind:
            seconds = num_experts * merging.by_kind[kind] + num_images * evaluating.by_kind[kind]
            return Duration(seconds=seconds, basis="measured")
        if spec.joint == "calibrated":  # measured times per test image have this pass in them
            num_images += num_validated
        per_expert = self._calibrated.get(kind)
        per_image = self._calibrated_image(model, linearised=spec.linearised)
        if per_expert is not None and per_image is not None:
            seconds = num_experts * per_expert + num_images * per_image
            return Duration(seconds=seconds, basis="calibrated")
        num_images *= image_factor(spec)
        per_expert, per_image = merging.of_model(model), evaluating.of_model(model)
        if per_expert is not None and per_image is not None:
            seconds = num_experts * per_expert + num_images * per_image
            return Duration(seconds=seconds, basis=_near(model, merging.by_model))
        guess = GUESS_MERGE_S_PER_IMAGE * self._size_beside_default(spec.base_id)
        if gpu := self._resources.merge.gpu:
            guess = self._forward_s(spec.base_id, gpu=gpu)
        return Duration(seconds=num_images * guess, basis="guessed")

    def _calibrated_training(self, training: Training) -> float | None:
        """Returns the seconds of a training by the calibration, None if it lacks a speed.

        Adds up the steps, an evaluation and a file per snapshot, and the base's own passes: one
        over a trial's test images and, for a linear probe, one over its training images. A process
        that has computed these features already is faster.
        """
        recipe, model = training.recipe, self._kinds.models[training.base_id]
        hyperparameters = recipe.hyperparameters
        step_s = self._calibrated.get(
            train_key(model, image_size=self._kinds.image_size, spec=recipe)
        )
        base_image_s = self._calibrated_image(model, linearised=False)
        image_s = self._calibrated_image(model, linearised=hyperparameters.linearised)
        if step_s is None or image_s is None or base_image_s is None:
            return None
        num_images = sum(self._num_test_images[task] for task in recipe.tasks)
        num_base_images: float = num_images if recipe.evaluates_base else 0
        if hyperparameters.head != "trained":
            num_train_images = sum(self._num_train_images[task] for task in recipe.tasks)
            num_base_images += hyperparameters.data_ratio * num_train_images
        snapshot_s = num_images * image_s + self._calibrated.get(file_key(model), 0.0)
        seconds = training.num_steps * step_s + len(training.snapshots) * snapshot_s
        return seconds + num_base_images * base_image_s

    def _calibrated_image(self, model: str, *, linearised: bool) -> float | None:
        key = image_key(model, image_size=self._kinds.image_size, linearised=linearised)
        return self._calibrated.get(key)

    def _flops_per_image(self, base_id: str) -> float:
        per_pixel = self._flops_per_pixel.get(base_id, GUESS_FLOPS_PER_PIXEL)
        return per_pixel * self._kinds.image_size**2

    def _size_beside_default(self, base_id: str) -> float:
        """Returns the operations of an image, as a multiple of the default backbone's."""
        return self._flops_per_image(base_id) / (GUESS_FLOPS_PER_PIXEL * GUESS_PIXELS)

    def _forward_s(self, base_id: str, *, gpu: float) -> float:
        """Guesses the seconds of a forward pass over an image; a worker uses at most one GPU."""
        return self._flops_per_image(base_id) / (GUESS_GPU_FLOPS_PER_S * min(gpu, 1))


def _near(model: str, by_model: Mapping[str, float]) -> Basis:
    return "measured" if model in by_model else "related"
