"""Takes optimizer steps on a backbone and a head, for fine-tuning and for pretraining.

Every random number is a function of the seed and the step alone. This includes dropout, which some
of timm's models have by default. The first k steps of a long training are therefore a training of
k steps, bit for bit, and one training can commit snapshots at several step counts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eval.evaluate import autocast
from eval.images.joint_split import JointSplit
from eval.images.split import Split
from eval.model_inputs import to_inputs
from workers.artifacts.metrics import TrainingMetrics
from workers.models.backbones import Backbone
from workers.models.batch_norm import batch_norms, statistics_in_parts, statistics_kept
from workers.sampling.batches import batch_positions, training_subset
from workers.sampling.seeds import derive_seed
from workers.specs.bases import PretrainSpec
from workers.specs.expert import ExpertSpec
from workers.train.augmentation import augmented
from workers.train.averaging import WeightAverage
from workers.train.optimizers import create_optimizer, perturbed_by_gradient
from workers.train.schedules import learning_rate
from workers.train.trainer_state import (
    StateMismatchError,
    average_tensors,
    load_model,
    model_tensors,
    optimizer_tensors,
    restore_tensors,
)
from workers.without_compiler import without_compiler

CURVE_POINTS = 20
"""Points of the loss curve that a manifest keeps."""
LOSSES = "losses"
"""The name of the losses among the tensors of `Trainer.state`."""


class DivergedError(Exception):
    """A training loss that is not finite. This is an outcome of a training, not a fault."""


@dataclass(kw_only=True)
class Trainer:
    """A model in training: weights, optimizer, and the number of steps taken."""

    spec: ExpertSpec | PretrainSpec
    """The specification of the training's last snapshot."""
    backbone: Backbone
    head: nn.Linear
    train: Split | JointSplit
    device: torch.device
    step: int = 0
    """Optimizer steps taken."""
    micro_batch: int | None = None
    """Most images of a forward and backward pass; None for the whole batch. The gradients of all
    parts of a batch add up to that of its mean loss, up to rounding. BatchNorm normalizes each part
    by itself, and dropout draws other masks, so the weights differ from those of whole batches."""
    least_micro_batch: int | None = None
    """The smallest `micro_batch` of all steps so far, those before a checkpoint included."""
    losses: list[float] = field(default_factory=list)
    """The training loss of every step, in nats per image."""
    _subset: npt.NDArray[np.int64] = field(init=False)
    _trained: list[nn.Parameter] = field(init=False)
    _optimizer: torch.optim.Optimizer = field(init=False)
    _average: WeightAverage = field(init=False)
    _task_of_class: Tensor | None = field(init=False, default=None)
    """The task of every class, (classes,), if each task has a head of its own."""

    def __post_init__(self) -> None:
        hyperparameters = self.spec.hyperparameters
        self._subset = training_subset(
            len(self.train), data_ratio=hyperparameters.data_ratio, seed=hyperparameters.seed
        )
        self.head.requires_grad_(requires_grad=self.spec.trains_head)
        parameters = [*self.backbone.module.parameters(), *self.head.parameters()]
        self._trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = create_optimizer(
            hyperparameters, constants=self.spec.constants, parameters=self._trained
        )
        self._average = WeightAverage(hyperparameters)
        has_heads = isinstance(self.spec, PretrainSpec) and self.spec.heads == "per_task"
        if has_heads and isinstance(self.train, JointSplit):
            sizes = torch.tensor(self.train.num_classes)
            owners = torch.arange(len(sizes)).repeat_interleave(sizes)
            self._task_of_class = owners.to(self.device)
        self.set_training_mode()

    def advance(self) -> None:
        """Takes one optimizer step.

        Raises:
            DivergedError: The loss is not finite. The weights are unchanged, but BatchNorm's
                statistics include the step's images.
        """
        hyperparameters = self.spec.hyperparameters
        inputs, labels = self._batch()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._differentiate(inputs, labels)
        if hyperparameters.sam_rho > 0:
            self._sharpen(inputs, labels)
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = learning_rate(hyperparameters, step=self.step)
        with without_compiler():
            self._optimizer.step()
        self.step += 1
        self.losses.append(loss)
        self.least_micro_batch = _least(self.micro_batch, self.least_micro_batch)
        if self._average.has_begun(self.step):
            self._average.add(model_tensors(self.backbone.module, self.head), step=self.step)

    def _batch(self) -> tuple[Tensor, Tensor]:
        hyperparameters = self.spec.hyperparameters
        positions = batch_positions(
            self._subset,
            step=self.step,
            batch_size=hyperparameters.batch_size,
            seed=hyperparameters.seed,
        )
        batch = self.train.take(positions)
        inputs = to_inputs(
            batch.images, normalization=self.backbone.normalization, device=self.device
        )
        labels = torch.from_numpy(batch.labels).to(self.device)
        inputs = augmented(
            inputs, augmentation=hyperparameters.augment, seed=hyperparameters.seed, step=self.step
        )
        return inputs, labels

    def _differentiate(self, inputs: Tensor, labels: Tensor) -> float:
        """Computes the gradients of a step's mean loss; returns the loss.

        All calls in one step draw the same dropout.
        """
        torch.manual_seed(derive_seed(self.spec.hyperparameters.seed, "step", self.step))
        count = len(labels)
        num_parts = math.ceil(count / min(self.micro_batch or count, count))
        parts = zip(inputs.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
        value = 0.0
        with statistics_in_parts(self.backbone.module, num_parts=num_parts):
            for part_inputs, part_labels in parts:
                with autocast(self.device):
                    logits = self.head(self.backbone.model(part_inputs))
                mean = self._cross_entropy(logits.float(), part_labels)
                loss = mean * (len(part_labels) / count)
                value += float(loss.detach())
                if not math.isfinite(value):
                    raise DivergedError(f"the loss is {value} at step {self.step}")
                loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean loss; with a head per task, each image sees its own task's classes."""
        if self._task_of_class is not None:
            is_other = self._task_of_class[None, :] != self._task_of_class[labels][:, None]
            logits = logits.masked_fill(is_other, -math.inf)
        return nn.functional.cross_entropy(logits, labels)

    def _sharpen(self, inputs: Tensor, labels: Tensor) -> None:
        """Replaces the gradients with the sharpness-aware gradients on the same images.

        This second pass does not update BatchNorm's statistics.
        """
        with (
            statistics_kept(self.backbone.module),
            perturbed_by_gradient(self._trained, rho=self.spec.hyperparameters.sam_rho),
        ):
            self._differentiate(inputs, labels)

    def state(self) -> dict[str, Tensor]:
        """Returns all tensors that later steps depend on; these are not copies, except the losses.

        Shapes:
            backbone.<name>, head.<name>: weights and buffers.
            optimizer.<position>.<name>: the optimizer's tensors for each parameter.
            average.<name>: the mean of the weights by the names above, once it has begun.
            losses: (step,), float64.
        """
        return {
            **model_tensors(self.backbone.module, self.head),
            **optimizer_tensors(self._optimizer),
            **average_tensors(self._average.tensors),
            LOSSES: torch.tensor(self.losses, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor], *, step: int) -> None:
        """Restores the tensors that `state` returned in a training of the same specification.

        Later steps give the same bits as in that training.

        Args:
            state: The tensors.
            step: The number of steps taken when `state` was called.

        Raises:
            StateMismatchError: The tensors are not a state of this training at that step. The
                trainer is unchanged.
        """
        tensors = dict(state)
        losses = tensors.pop(LOSSES, torch.empty(0))
        if losses.shape != (step,) or losses.dtype != torch.float64:
            raise StateMismatchError(
                f"step {step} needs {step} losses of type float64; found shape "
                f"{tuple(losses.shape)} of type {losses.dtype}"
            )
        average = restore_tensors(
            tensors,
            backbone=self.backbone.module,
            head=self.head,
            optimizer=self._optimizer,
            has_average=self._average.has_begun(step),
        )
        self._average.restore(average)
        self.losses = losses.tolist()
        self.step = step

    def metrics(self) -> TrainingMetrics:
        """Returns the losses and the step count for the manifest of a snapshot."""
        return TrainingMetrics(
            train_loss=recent_loss(self.losses),
            train_curve=tuple(loss_curve(self.losses)),
            num_classes=self.head.out_features,
            steps_taken=self.step,
        )

    def set_training_mode(self) -> None:
        """Puts the model into training mode; needed again after every evaluation."""
        self.backbone.model.train()
        self.head.train()
        if self.spec.constants.freeze_batch_norm:
            for norm in batch_norms(self.backbone.module):
                norm.eval()

    @contextmanager
    def expert_weights(self) -> Iterator[dict[str, Tensor]]:
        """Puts the weights that the expert stores into the model while the `with` block runs.

        Yields the model's tensors, which are the mean of the weights if there is one and the last
        weights otherwise. The last weights are back in the model after the block.
        """
        tensors = model_tensors(self.backbone.module, self.head)
        if not self._average.tensors:
            yield tensors
            return
        last = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        load_model(self._average.tensors, backbone=self.backbone.module, head=self.head)
        try:
            yield tensors
        finally:
            load_model(last, backbone=self.backbone.module, head=self.head)


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def recent_loss(losses: Sequence[float]) -> float | None:
    """Returns the mean loss over the last tenth of the steps; None before the first step.

    Units:
        Nats per image.
    """
    recent = losses[-max(1, len(losses) // 10) :]
    return math.fsum(recent) / len(recent) if recent else None


def loss_curve(losses: Sequence[float]) -> list[tuple[int, float]]:
    """Returns about `CURVE_POINTS` points: a step, and the mean loss since the previous point."""
    width = max(1, len(losses) // CURVE_POINTS)
    stops = range(width, len(losses) + 1, width)
    return [(stop, math.fsum(losses[stop - width : stop]) / width) for stop in stops]


def create_head(num_features: int, *, num_classes: int, seed: int, task: str) -> nn.Linear:
    """Creates a linear classifier with weights drawn from the seed and the task's name.

    Shapes:
        The classifier maps (batch, num_features) to (batch, num_classes).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head", task))
        return nn.Linear(num_features, num_classes)
