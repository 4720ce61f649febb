"""The speeds of the committed artifacts of a study, as medians over similar jobs."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.costs.usage import training_seconds
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics, steps_taken
from workers.calibrate.speeds import merge_key, train_key
from workers.specs.bases import PretrainSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

SAM_FACTOR = 2.0
"""A step of sharpness-aware minimization takes two forward and backward passes."""
LINEARISED_STEP_FACTOR, LINEARISED_IMAGE_FACTOR = 2.5, 2.0
"""A linearised model computes a forward derivative beside each forward pass, and training
differentiates both. The factors are guesses for kinds that are neither measured nor calibrated."""

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class JobKinds:
    """The kinds of a plan's jobs: jobs of equal kind take equal time per image or expert."""

    models: Mapping[str, str]
    """The timm model of each base, by the base's id."""
    image_size: int
    """Pixels of an image's side."""

    @staticmethod
    def of(plan: Plan) -> "JobKinds":
        """Returns the kinds of a plan's jobs."""
        return JobKinds(
            models={base_id: base.model for base_id, base in plan.bases.by_id.items()},
            image_size=plan.study.backbone.image_size,
        )

    def training(self, recipe: ExpertSpec | PretrainSpec, *, base_id: str) -> tuple[str, str]:
        """Returns the kind of a training.

        The head is part of it, as a linear probe is fitted before the first step.
        """
        key = train_key(self.models[base_id], image_size=self.image_size, spec=recipe)
        return key, recipe.hyperparameters.head

    def merge(self, spec: MergeSpec) -> str:
        """Returns the kind of a merge job."""
        return merge_key(self.models[spec.base_id], image_size=self.image_size, merge=spec)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The speed of one committed artifact."""

    kind: object
    model: str
    seconds: float
    """Seconds per image or per expert."""
    factor: float = 1.0
    """The factor by which sharpness or linearisation slow the job down."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Medians of the seconds per image or per expert in committed artifacts."""

    by_kind: Mapping[object, float]
    by_model: Mapping[str, float]
    """Over all kinds of a model, each divided by its factor."""
    of_any_model: float | None
    """The median of `by_model`; None before anything is committed."""

    @staticmethod
    def of(samples: Iterable[Sample]) -> "Speeds":
        """Returns the medians of some samples."""
        samples = list(samples)
        by_model = _medians((each.model, each.seconds / each.factor) for each in samples)
        return Speeds(
            by_kind=_medians((each.kind, each.seconds) for each in samples),
            by_model=by_model,
            of_any_model=statistics.median(by_model.values()) if by_model else None,
        )

    def of_model(self, model: str) -> float | None:
        """Returns the speed of a model, else of the other models; None if there are none."""
        return self.by_model.get(model, self.of_any_model)


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeeds:
    """The speeds of all committed trainings and merges of a plan."""

    training: Speeds
    """Seconds per training image."""
    merging: Speeds
    """Seconds per expert merged."""
    evaluating: Speeds
    """Seconds per image that a merged model is evaluated on, by the kind of the merge."""

    @staticmethod
    def of(committed: Committed, *, kinds: JobKinds) -> "MeasuredSpeeds":
        """Returns the speeds of one snapshot of the committed artifacts."""
        merged = [
            (committed.plan.merges[merge_id], manifest)
            for merge_id, manifest in committed.merges.items()
        ]
        return MeasuredSpeeds(
            training=Speeds.of(_training_samples(committed, kinds=kinds)),
            merging=Speeds.of(
                _merge_sample(spec, _seconds_per_expert(each), kinds=kinds) for spec, each in merged
            ),
            evaluating=Speeds.of(
                _merge_sample(
                    spec, _seconds_per_image(each), kinds=kinds, factor=image_factor(spec)
                )
                for spec, each in merged
            ),
        )


def step_factor(recipe: ExpertSpec | PretrainSpec) -> float:
    """Returns the duration of a step, as a multiple of a plain step of the same model."""
    hyperparameters = recipe.hyperparameters
    of_sam = SAM_FACTOR if hyperparameters.sam_rho > 0 else 1.0
    return of_sam * (LINEARISED_STEP_FACTOR if hyperparameters.linearised else 1.0)


def image_factor(spec: MergeSpec) -> float:
    """Returns the duration of evaluating an image, as a multiple of a plain forward pass."""
    return LINEARISED_IMAGE_FACTOR if spec.linearised else 1.0


def _training_samples(committed: Committed, *, kinds: JobKinds) -> Iterator[Sample]:
    for training in committed.plan.trainings:
        recipe = training.recipe
        manifests = (committed.trained(output.id) for output in training.outputs)
        for manifest in filter(None, manifests):
            if steps := steps_taken(manifest.metrics):
                num_images = steps * recipe.hyperparameters.batch_size
                yield Sample(
                    kind=kinds.training(recipe, base_id=training.base_id),
                    model=kinds.models[training.base_id],
                    seconds=training_seconds(manifest) / num_images,
                    factor=step_factor(recipe),
                )


def _merge_sample(
    spec: MergeSpec, seconds: float, *, kinds: JobKinds, factor: float = 1.0
) -> Sample:
    model = kinds.models[spec.base_id]
    return Sample(kind=kinds.merge(spec), model=model, seconds=seconds, factor=factor)


def _seconds_per_expert(manifest: Manifest) -> float:
    num_experts = len(manifest.spec["experts"]) + len(manifest.spec.get("pool", ()))
    return manifest.seconds["merge"] / max(1, num_experts)


def _seconds_per_image(manifest: Manifest) -> float:
    tasks = MergeMetrics.from_json(manifest.metrics).tasks
    num_images = sum(sums.num_examples for sums in tasks.values())
    return float(manifest.seconds["evaluate"] / max(1, num_images))


def _medians(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    found: dict[Key, list[float]] = {}
    for key, seconds in pairs:
        found.setdefault(key, []).append(seconds)
    return {key: statistics.median(each) for key, each in found.items()}
