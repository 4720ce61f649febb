"""How long each run and merge job takes: measured, calibrated, or a stated guess."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator.costs.usage import training_seconds
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics, steps_taken
from workers.calibrate.speeds import Calibration, file_key, image_key, merge_key, train_key
from workers.models.model_sizes import ModelSize
from workers.specs.merge import MergeSpec
from workers.specs.training import ExpertSpec, PretrainSpec, Training

# EfficientNet-Lite0 at 64 pixels on one CPU core, float32.
GUESS_TRAIN_S_PER_IMAGE = 0.011
GUESS_MERGE_S_PER_IMAGE = 0.002
GUESS_PIXELS = 64 * 64
GUESS_FLOPS_PER_PIXEL = 15_302.4375
GUESS_GPU_FLOPS_PER_S = 5e12
"""Of a whole GPU in float32: a third of what a V100 can do at most. Nothing was timed on one."""
PASSES_OF_A_STEP = 3
"""A backward pass takes as long as two forward passes."""
SAM_FACTOR = 2.0
"""A step of sharpness-aware minimization has two passes."""
LINEARISED_STEP_FACTOR, LINEARISED_IMAGE_FACTOR = 2.5, 2.0
"""A forward derivative goes along with each forward pass, and training differentiates both."""

Key = TypeVar("Key")
Basis = Literal["measured", "calibrated", "related", "guessed"]
"""`related`: measured on other backbones of the study alone."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a job takes in a worker, and how that is known."""

    seconds: float
    basis: Basis


@dataclass(frozen=True, kw_only=True)
class _Speeds:
    """Seconds of one unit in committed work, as medians."""

    of_kind: Mapping[object, float]
    of_model: Mapping[str, float]
    """As if none were sharpened or linearised."""
    of_any: float | None
    """Of the models' medians; None before anything is committed."""

    def near(self, model: str) -> tuple[float, Basis] | None:
        """Returns the speed of a model, else of the others, and which; None without any."""
        if model in self.of_model:
            return self.of_model[model], "measured"
        return None if self.of_any is None else (self.of_any, "related")


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What one committed artifact took a unit."""

    kind: object
    """What samples with equal speeds have in common."""
    model: str
    seconds: float
    factor: float
    """How much of it is due to sharpening or linearising."""


class Rates:
    """Durations from one snapshot of the committed artifacts; later snapshots give better ones.

    A job that is like committed ones takes what these took. Otherwise a calibration says, and then
    committed jobs of the same model, whatever their batch size or method, and then those of
    other models. The last resort is a guess by the backbone's floating point operations: at the
    default backbone's speed on one CPU core, or at a rounded speed of the worker's share of a GPU.
    """

    def __init__(
        self,
        committed: Committed,
        *,
        calibration: Calibration | None,
        models: Mapping[str, ModelSize] | None = None,
    ) -> None:
        """Takes the figures that there are.

        Args:
            committed: The plan, and the manifests of its committed artifacts.
            calibration: What was timed, if anything was.
            models: Backbones by the ids of their bases, for the guess; of which nothing is known is
                taken for the default backbone.
        """
        self._flops = {
            base_id: flops
            for base_id, size in (models or {}).items()
            if (flops := size.flops_per_pixel) is not None
        }
        self._resources = committed.plan.study.resources
        self._speeds: Mapping[str, float] = calibration.speeds if calibration else {}
        plan = committed.plan
        self._models = {base_id: base.model for base_id, base in plan.bases.by_id.items()}
        self._image_size = plan.study.backbone.image_size
        self._num_images = {task: num_test_images(plan, task=task) for task in plan.sources}
        self._num_train_images = {task: num_train_images(plan, task=task) for task in plan.sources}
        self._train = _speeds(self._train_samples(committed))
        merged = [(plan.merges[each.id], each) for each in committed.merges.values()]
        self._merge = _speeds(self._merge_sample(spec, _merge_s(each)) for spec, each in merged)
        self._image = _speeds(
            self._merge_sample(spec, _image_s(each), factor=_image_factor(spec))
            for spec, each in merged
        )

    def training(self, training: Training) -> Duration:
        """Returns the duration of a whole training, evaluations and files included."""
        recipe, base_id = training.recipe, training.base_id
        model = self._models[base_id]
        num_images: float = training.num_steps * recipe.hyperparameters.batch_size
        if (rate := self._train.of_kind.get(self._train_kind(recipe, model=model))) is not None:
            return Duration(seconds=num_images * rate, basis="measured")
        if (seconds := self._calibrated(training, model=model)) is not None:
            return Duration(seconds=seconds, basis="calibrated")
        num_images *= _step_factor(recipe)
        if (near := self._train.near(model)) is not None:
            return Duration(seconds=num_images * near[0], basis=near[1])
        guess = GUESS_TRAIN_S_PER_IMAGE * self._size_beside_default(base_id)
        if gpu := self._resources.trial.gpu:
            guess = PASSES_OF_A_STEP * self._forward_s(base_id, gpu=gpu)
        return Duration(seconds=num_images * guess, basis="guessed")

    def merge(self, spec: MergeSpec) -> Duration:
        """Returns how long a merge job takes: to merge, and to evaluate on every task."""
        members = (*spec.experts, *spec.held_out)
        num_images: float = sum(self._num_images[expert.task] for expert in members)
        num_experts, model = len(spec.experts), self._models[spec.base_id]
        kind = self._merge_kind(spec)
        if kind in self._merge.of_kind:
            seconds = num_experts * self._merge.of_kind[kind]
            seconds += num_images * self._image.of_kind[kind]
            return Duration(seconds=seconds, basis="measured")
        per_expert = self._speeds.get(kind)
        per_image = self._image_speed(model, linearised=spec.linearised)
        if per_expert is not None and per_image is not None:
            seconds = num_experts * per_expert + num_images * per_image
            return Duration(seconds=seconds, basis="calibrated")
        num_images *= _image_factor(spec)
        merging, evaluating = self._merge.near(model), self._image.near(model)
        if merging is not None and evaluating is not None:
            seconds = num_experts * merging[0] + num_images * evaluating[0]
            return Duration(seconds=seconds, basis=merging[1])
        guess = GUESS_MERGE_S_PER_IMAGE * self._size_beside_default(spec.base_id)
        if gpu := self._resources.merge.gpu:
            guess = self._forward_s(spec.base_id, gpu=gpu)
        return Duration(seconds=num_images * guess, basis="guessed")

    def _calibrated(self, training: Training, *, model: str) -> float | None:
        """Adds up steps, an evaluation and a file a snapshot, and passes of the base.

        These are one over a trial's test images and, for a linear probe, one over its training
        images; a process that has them already is faster.
        """
        recipe = training.recipe
        step_s = self._speeds.get(train_key(model, image_size=self._image_size, spec=recipe))
        of_base_s = self._image_speed(model, linearised=False)
        image_s = self._image_speed(model, linearised=recipe.hyperparameters.linearised)
        if step_s is None or image_s is None or of_base_s is None:
            return None
        num_images = sum(self._num_images[task] for task in recipe.tasks)
        num_of_base = num_images if recipe.evaluates_base else 0.0
        if recipe.hyperparameters.head != "trained":
            num_train_images = sum(self._num_train_images[task] for task in recipe.tasks)
            num_of_base += recipe.hyperparameters.data_ratio * num_train_images
        snapshot_s = num_images * image_s + self._speeds.get(file_key(model), 0.0)
        seconds = training.num_steps * step_s + len(training.snapshots) * snapshot_s
        return seconds + num_of_base * of_base_s

    def _image_speed(self, model: str, *, linearised: bool) -> float | None:
        key = image_key(model, image_size=self._image_size, linearised=linearised)
        return self._speeds.get(key)

    def _flops_per_image(self, base_id: str) -> float:
        return self._flops.get(base_id, GUESS_FLOPS_PER_PIXEL) * self._image_size**2

    def _size_beside_default(self, base_id: str) -> float:
        return self._flops_per_image(base_id) / (GUESS_FLOPS_PER_PIXEL * GUESS_PIXELS)

    def _forward_s(self, base_id: str, *, gpu: float) -> float:
        """Guesses the seconds of a forward pass over an image, on a share of one GPU, not more."""
        return self._flops_per_image(base_id) / (GUESS_GPU_FLOPS_PER_S * min(gpu, 1))

    def _train_samples(self, committed: Committed) -> Iterator[_Sample]:
        for training in committed.plan.trainings:
            recipe, model = training.recipe, self._models[training.base_id]
            for manifest in filter(None, map(committed.trained, (o.id for o in training.outputs))):
                if steps := steps_taken(manifest.metrics):
                    num_images = steps * recipe.hyperparameters.batch_size
                    yield _Sample(
                        kind=self._train_kind(recipe, model=model),
                        model=model,
                        seconds=training_seconds(manifest) / num_images,
                        factor=_step_factor(recipe),
                    )

    def _train_kind(self, spec: ExpertSpec | PretrainSpec, *, model: str) -> object:
        """Returns what runs with equal seconds an image have in common.

        That of the head counts as well: a linear probe is fitted before the first step.
        """
        key = train_key(model, image_size=self._image_size, spec=spec)
        return key, spec.hyperparameters.head

    def _merge_sample(self, spec: MergeSpec, seconds: float, *, factor: float = 1.0) -> _Sample:
        model = self._models[spec.base_id]
        return _Sample(kind=self._merge_kind(spec), model=model, seconds=seconds, factor=factor)

    def _merge_kind(self, spec: MergeSpec) -> str:
        model = self._models[spec.base_id]
        return merge_key(model, image_size=self._image_size, merge=spec)


def num_test_images(plan: Plan, *, task: str) -> int:
    """Returns how many images a task is evaluated on."""
    tasks, found = plan.study.tasks, plan.sources[task].task
    available = found.num_train // 5 if tasks.evaluate_on == "validation" else found.num_test
    return min(available, tasks.max_test or available)


def num_train_images(plan: Plan, *, task: str) -> int:
    """Returns how many training images of a task the store keeps."""
    tasks, found = plan.study.tasks, plan.sources[task].task
    held_out = found.num_train // 5 if tasks.evaluate_on == "validation" else 0
    available = found.num_train - held_out
    return min(available, tasks.max_train or available)


def _step_factor(spec: ExpertSpec | PretrainSpec) -> float:
    """Returns how much longer a step takes than a plain one."""
    of_sam = SAM_FACTOR if spec.hyperparameters.sam_rho > 0 else 1.0
    return of_sam * (LINEARISED_STEP_FACTOR if spec.hyperparameters.linearised else 1.0)


def _image_factor(spec: MergeSpec) -> float:
    return LINEARISED_IMAGE_FACTOR if spec.linearised else 1.0


def _merge_s(manifest: Manifest) -> float:
    """Returns the seconds of merging, an expert."""
    return manifest.seconds["merge"] / max(1, len(manifest.spec["experts"]))


def _image_s(manifest: Manifest) -> float:
    tasks = MergeMetrics.from_json(manifest.metrics).tasks
    images = sum(sums.num_examples for sums in tasks.values())
    return float(manifest.seconds["evaluate"] / max(1, images))


def _speeds(samples: Iterable[_Sample]) -> _Speeds:
    samples = list(samples)
    of_model = _medians((each.model, each.seconds / each.factor) for each in samples)
    return _Speeds(
        of_kind=_medians((each.kind, each.seconds) for each in samples),
        of_model=of_model,
        of_any=statistics.median(of_model.values()) if of_model else None,
    )


def _medians(rates: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    found: dict[Key, list[float]] = {}
    for key, rate in rates:
        found.setdefault(key, []).append(rate)
    return {key: statistics.median(each) for key, each in found.items()}
