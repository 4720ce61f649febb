"""How many bytes a plan's artifacts take: as committed, or worked out from the specifications."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from orchestrator.costs.durations import num_test_images, num_train_images
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from workers.models.model_sizes import HEAD_ENTRY_BYTES, ModelSize, model_sizes
from workers.specs.data import DataSpec, ZeroShotSpec
from workers.specs.training import BaseSpec, ExpertSpec, Training

LABEL_BYTES = 8
_ADAMS_MOMENTA = 2
"""Tensors as large as the parameters that it keeps; SGD keeps one, none without momentum."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of what a plan makes; None for models that timm does not know."""

    committed: Committed
    models: Mapping[str, ModelSize]
    """By the id of each base of the model."""

    def base_bytes(self, base_id: str) -> int | None:
        """Returns the bytes of a base's file; those of another base of its model if need be."""
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
        """Returns the bytes of all artifacts of a training, as far as they are known."""
        return sum(self._output_bytes(output) or 0 for output in training.outputs)

    def _output_bytes(self, output: BaseSpec | ExpertSpec) -> int | None:
        if isinstance(output, BaseSpec):
            return self.base_bytes(output.id)
        return self.expert_bytes(output)

    def data_bytes(self, spec: DataSpec) -> int:
        """Returns the bytes of a task's images and labels."""
        plan = self.committed.plan
        num_images = sum(
            count(plan, task=spec.task) for count in (num_train_images, num_test_images)
        )
        shape = (spec.image_size, spec.image_size, plan.sources[spec.task].task.channels)
        return num_images * (prod(shape) + LABEL_BYTES)

    def head_bytes(self, spec: ZeroShotSpec) -> int:
        """Returns the bytes of a zero-shot head, whose width is that of the backbone's features."""
        width = max((model.num_features for model in self.models.values()), default=0)
        return HEAD_ENTRY_BYTES * len(spec.classes) * width

    def missing_preparation_bytes(self) -> int:
        """Returns the bytes of the images, zero-shot heads and first bases that are missing."""
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
        num_momenta = _ADAMS_MOMENTA
        if recipe.hyperparameters.optimizer == "sgd":
            num_momenta = 1 if recipe.constants.momentum else 0
        num_states = 1 if recipe.hyperparameters.average_weights == "none" else 2
        return num_states * model.state_bytes + num_momenta * model.parameter_bytes


def sizes_by_base(plan: Plan) -> dict[str, ModelSize]:
    """Returns the size of the model of each base, by the base's id, as far as timm knows it.

    Models that this machine has not measured yet are measured in another process.
    """
    bases = plan.bases.by_id.values()
    found = model_sizes(base.model for base in bases)
    return {base.id: found[base.model] for base in bases if base.model in found}
