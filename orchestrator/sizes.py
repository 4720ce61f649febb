"""How many bytes a plan's artifacts take: as committed, or worked out from the specifications."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from eval.tasks import find_task
from orchestrator.ledger import Ledger
from orchestrator.rates import num_test_images, num_train_images
from workers.model_sizes import ModelSize, model_sizes
from workers.specs import DataSpec, ExpertSpec

LABEL_BYTES = 8
_ADAMS_MOMENTA = 2
"""Tensors as large as the parameters that it keeps; SGD keeps one, none without momentum."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of what a plan makes; None for models that timm does not know."""

    ledger: Ledger
    models: Mapping[str, ModelSize]
    """By the id of the base."""
    num_classes: Mapping[str, int]
    """By task."""

    @staticmethod
    def of(ledger: Ledger) -> "Sizes":
        """Asks how large the study's models are, in another process if nobody has asked before."""
        base = ledger.plan.base.spec
        found = model_sizes([base.model])
        models = {base.id: found[base.model]} if base.model in found else {}
        tasks = ledger.plan.study.task_names
        num_classes = {task: find_task(task).num_classes for task in tasks}
        return Sizes(ledger=ledger, models=models, num_classes=num_classes)

    def base_bytes(self, base_id: str) -> int | None:
        """Returns the bytes of a base's file."""
        if base_id in self.ledger.prepared:
            return sum(file.size_bytes for file in self.ledger.prepared[base_id].files)
        model = self.models.get(base_id)
        return None if model is None else model.state_bytes

    def expert_bytes(self, spec: ExpertSpec) -> int | None:
        """Returns the bytes of an expert's file: backbone and head."""
        model = self.models.get(spec.base_id)
        if model is None:
            return self.base_bytes(spec.base_id)
        return model.expert_bytes(num_classes=self.num_classes[spec.task])

    def data_bytes(self, spec: DataSpec) -> int:
        """Returns the bytes of a task's images and labels."""
        plan = self.ledger.plan
        num_images = sum(
            count(plan, task=spec.task) for count in (num_train_images, num_test_images)
        )
        shape = (spec.image_size, spec.image_size, find_task(spec.task).channels)
        return num_images * (prod(shape) + LABEL_BYTES)

    def checkpoint_bytes(self, spec: ExpertSpec) -> int | None:
        """Returns the bytes of a running trial's checkpoint: weights, buffers, momenta."""
        model = self.models.get(spec.base_id)
        if model is None:
            return None
        optimizer = spec.optimizer
        num_momenta = _ADAMS_MOMENTA
        if optimizer.name == "sgd":
            num_momenta = 1 if optimizer.momentum else 0
        return model.state_bytes + num_momenta * model.parameter_bytes
