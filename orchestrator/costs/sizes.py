"""The sizes of a plan: images per task, and bytes of every artifact and checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.study.checks.models import reports_by_model
from workers.models.model_sizes import HEAD_ENTRY_BYTES, ModelSize
from workers.sampling.data_selection import num_held_out
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.head import ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import Training

LABEL_BYTES = 8
_ADAM_STATE_TENSORS = 2
"""Tensors of the parameters' size that Adam keeps; SGD keeps one, or none without momentum."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The bytes of a plan's artifacts: of the committed file, else from the specification.

    The size of an artifact of a model that timm does not know is None.
    """

    committed: Committed
    models: Mapping[str, ModelSize]
    """Sizes of the backbones, by the ids of the bases."""

    def base_bytes(self, base_id: str) -> int | None:
        """Returns the bytes of a base's file; of another base of the same model if need be."""
        bases, committed = self.committed.plan.bases.by_id, self.committed.bases
        if base_id in committed:
            return sum(file.size_bytes for file in committed[base_id].files)
        if base_id in self.models:
            return self.models[base_id].state_bytes
        alike = (
            sum(file.size_bytes for file in manifest.files)
            for manifest in committed.values()
            if manifest.files and bases[manifest.id].model == bases[base_id].model
        )
        return next(alike, None)

    def expert_bytes(self, spec: ExpertSpec) -> int | None:
        """Returns the bytes of an expert's file: backbone and head."""
        model = self.models.get(spec.base_id)
        if model is None:
            return self.base_bytes(spec.base_id)
        num_classes = self.committed.plan.sources[spec.task].task.num_classes
        return model.expert_bytes(num_classes=num_classes)

    def output_bytes(self, training: Training) -> int:
        """Returns the bytes of all artifacts of a training; unknown sizes count as 0."""
        return sum(self._output_bytes(output) or 0 for output in training.outputs)

    def _output_bytes(self, output: BaseSpec | ExpertSpec) -> int | None:
        if isinstance(output, BaseSpec):
            return self.base_bytes(output.id)
        return self.expert_bytes(output)

    def merge_bytes(self, spec: MergeSpec) -> int | None:
        """Returns the bytes of a merge's files: a backbone, or one per task, if it keeps them."""
        if not spec.keeps_weights:
            return 0
        num_models = 1
        if spec.card.is_per_task:
            num_models = len(spec.experts) + bool(spec.held_out)
        each = self.base_bytes(spec.base_id)
        return None if each is None else num_models * each

    def data_bytes(self, spec: DataSpec) -> int:
        """Returns the bytes of a task's images and labels."""
        plan = self.committed.plan
        counts = (num_train_images, num_test_images, num_validation_images)
        num_images = sum(count(plan, task=spec.task) for count in counts)
        shape = (spec.image_size, spec.image_size, plan.sources[spec.task].task.channels)
        return num_images * (prod(shape) + LABEL_BYTES)

    def head_bytes(self, spec: ZeroShotSpec) -> int:
        """Returns the bytes of a zero-shot head, which is as wide as the backbone's features."""
        width = max((model.num_features for model in self.models.values()), default=0)
        return HEAD_ENTRY_BYTES * len(spec.classes) * width

    def missing_preparation_bytes(self) -> int:
        """Returns the bytes of the missing images, zero-shot heads and bases to be prepared.

        Bases that are pretrained belong to trainings and do not count.
        """
        plan, done = self.committed.plan, self.committed.prepared
        bases = (job.spec.id for job in plan.bases.jobs)
        heads = (job.spec for job in plan.heads.values())
        return (
            sum(self.base_bytes(each) or 0 for each in bases if each not in done)
            + sum(self.data_bytes(each) for each in plan.datasets if each.id not in done)
            + sum(self.head_bytes(each) for each in heads if each.id not in done)
        )

    def checkpoint_bytes(self, training: Training) -> int | None:
        """Returns the bytes of a training's checkpoint: weights, buffers, momenta, mean weights."""
        model, recipe = self.models.get(training.base_id), training.recipe
        if model is None:
            return None
        num_momenta = _ADAM_STATE_TENSORS
        if recipe.hyperparameters.optimizer == "sgd":
            num_momenta = 1 if recipe.constants.momentum else 0
        num_states = 1 if recipe.hyperparameters.average_weights == "none" else 2
        return num_states * model.state_bytes + num_momenta * model.parameter_bytes


def sizes_by_base(plan: Plan) -> dict[str, ModelSize]:
    """Returns the size of each base's model by the base's id, for models that timm can build.

    Models that this machine has not checked yet are checked in another process.
    """
    reports = reports_by_model(plan.study)
    sizes = {model: report.size for model, report in reports.items() if report.size is not None}
    bases = plan.bases.by_id.values()
    return {base.id: sizes[base.model] for base in bases if base.model in sizes}


def num_test_images(plan: Plan, *, task: str) -> int:
    """Returns the number of images that a task is evaluated on."""
    tasks, found = plan.study.tasks, plan.sources[task].task
    held_out = num_held_out(found.num_train)
    available = held_out if tasks.evaluate_on == "validation" else found.num_test
    return min(available, tasks.max_test or available)


def num_train_images(plan: Plan, *, task: str) -> int:
    """Returns the number of a task's training images in the store."""
    tasks, available = plan.study.tasks, _num_not_tested(plan, task=task)
    if tasks.max_validation is not None:
        available -= num_held_out(available)
    return min(available, tasks.max_train or available)


def num_validation_images(plan: Plan, *, task: str) -> int:
    """Returns the number of a task's validation images; 0 if the study holds none out."""
    held_out = num_held_out(_num_not_tested(plan, task=task))
    return min(held_out, plan.study.tasks.max_validation or 0)


def _num_not_tested(plan: Plan, *, task: str) -> int:
    """Returns the number of a task's training images that are not its test images here."""
    num = plan.sources[task].task.num_train
    return num - (num_held_out(num) if plan.study.tasks.evaluate_on == "validation" else 0)
