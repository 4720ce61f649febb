"""Fine-tunes a backbone and a head on one task.

Every random choice is a function of the seed and of the step alone, so that the first k steps of
a long run are bit for bit a run of k steps: what snapshots at several step counts rely on.
That holds for dropout as well, which some of timm's models have by default.
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
from workers.models.backbones import Backbone
from workers.models.batch_norm import batch_norms, statistics_kept
from workers.sampling.batches import batch_positions, training_subset
from workers.sampling.seeds import derive_seed
from workers.specs.training import ExpertSpec, PretrainSpec
from workers.train.augmentation import augmented
from workers.train.averaging import WeightAverage
from workers.train.optimizers import climbed, create_optimizer
from workers.train.schedules import learning_rate
from workers.train.tuning_state import (
    UnfitStateError,
    average_tensors,
    load_model,
    model_tensors,
    optimizer_tensors,
    restore_tensors,
)

CURVE_POINTS = 20
"""Points of the loss curve that an expert keeps."""
LOSSES = "losses"
"""The name of the losses among the tensors of a run's state."""


class DivergedError(Exception):
    """The training loss was not finite: an outcome, not a fault."""


@dataclass(kw_only=True)
class FineTuning:
    """A run in progress: weights, optimizer, and the step it stands at."""

    spec: ExpertSpec | PretrainSpec
    """The longest snapshot of the run."""
    backbone: Backbone
    head: nn.Linear
    train: Split | JointSplit
    device: torch.device
    step: int = 0
    """Optimizer steps taken."""
    losses: list[float] = field(default_factory=list)
    """The training loss of every step, in nats per image."""
    _subset: npt.NDArray[np.int64] = field(init=False)
    _trained: list[nn.Parameter] = field(init=False)
    _optimizer: torch.optim.Optimizer = field(init=False)
    _average: WeightAverage = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        self._subset = training_subset(len(self.train), data_ratio=spec.data_ratio, seed=spec.seed)
        self.head.requires_grad_(requires_grad=spec.trains_head)
        parameters = [*self.backbone.module.parameters(), *self.head.parameters()]
        self._trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = create_optimizer(spec.optimizer, parameters=self._trained, lr=spec.lr)
        self._average = WeightAverage(spec.average_weights, total_steps=spec.steps)
        self.set_training_mode()

    def advance(self) -> None:
        """Takes one optimizer step.

        Raises:
            DivergedError: The loss is not finite; the weights are those before the step, and
                BatchNorm's statistics have seen the step's images.
        """
        spec = self.spec
        inputs, labels = self._batch()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._differentiate(inputs, labels)
        if spec.optimizer.sam_rho > 0:
            self._sharpen(inputs, labels)
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = learning_rate(spec, step=self.step)
        self._optimizer.step()
        self.step += 1
        self.losses.append(loss)
        if self._average.has_begun(self.step):
            self._average.add(model_tensors(self.backbone.module, self.head), step=self.step)

    def _batch(self) -> tuple[Tensor, Tensor]:
        spec = self.spec
        positions = batch_positions(
            self._subset, step=self.step, batch_size=spec.batch_size, seed=spec.seed
        )
        batch = self.train.take(positions)
        inputs = to_inputs(
            batch.images, normalization=self.backbone.normalization, device=self.device
        )
        labels = torch.from_numpy(batch.labels).to(self.device)
        inputs = augmented(inputs, augmentation=spec.augment, seed=spec.seed, step=self.step)
        return inputs, labels

    def _differentiate(self, inputs: Tensor, labels: Tensor) -> float:
        """Adds the gradient of a step's loss to the weights, and returns the loss.

        Dropout is the same every time that this is called in one step.
        """
        torch.manual_seed(derive_seed(self.spec.seed, "step", self.step))
        with autocast(self.device):
            logits = self.head(self.backbone.model(inputs))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {self.step}")
        loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _sharpen(self, inputs: Tensor, labels: Tensor) -> None:
        """Replaces the gradient by that of the same images where the loss is highest nearby.

        BatchNorm's statistics see the images once a step.
        """
        with (
            statistics_kept(self.backbone.module),
            climbed(self._trained, rho=self.spec.optimizer.sam_rho),
        ):
            self._differentiate(inputs, labels)

    def state(self) -> dict[str, Tensor]:
        """Returns all that later steps depend on besides the specification and `step`.

        Shapes:
            backbone.<name>, head.<name>: weights and buffers, themselves and not copies.
            optimizer.<position>.<name>: the same of what the optimizer keeps for each parameter.
            average.<name>: the mean of the weights, by the names above, once it has begun.
            losses: (step,), float64.
        """
        return {
            **model_tensors(self.backbone.module, self.head),
            **optimizer_tensors(self._optimizer),
            **average_tensors(self._average.tensors),
            LOSSES: torch.tensor(self.losses, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor], *, step: int) -> None:
        """Goes on from what `state` returned at a step of a run of the same specification.

        Every later step gives the bits that it gave there.

        Raises:
            UnfitStateError: It is not the state of such a run at that step; nothing has changed.
        """
        tensors = dict(state)
        losses = tensors.pop(LOSSES, torch.empty(0))
        if losses.shape != (step,) or losses.dtype != torch.float64:
            raise UnfitStateError(f"step {step} has no {step} losses of type float64")
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

    def set_training_mode(self) -> None:
        """Makes the model ready for steps, after an evaluation too."""
        self.backbone.model.train()
        self.head.train()
        if self.spec.freeze_batch_norm:
            for norm in batch_norms(self.backbone.module):
                norm.eval()

    @contextmanager
    def expert_weights(self) -> Iterator[dict[str, Tensor]]:
        """Puts what the expert stores into the model, and its own weights back on leaving.

        Yields the model's tensors: the mean of the weights where there is one, else the last ones.
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


def recent_loss(losses: Sequence[float]) -> float | None:
    """Returns the mean over the last tenth of the steps; None before the first.

    Units:
        Nats per image.
    """
    recent = losses[-max(1, len(losses) // 10) :]
    return math.fsum(recent) / len(recent) if recent else None


def loss_curve(losses: Sequence[float]) -> list[tuple[int, float]]:
    """Returns (step, mean loss since the point before), `CURVE_POINTS` of them or a few more."""
    width = max(1, len(losses) // CURVE_POINTS)
    stops = range(width, len(losses) + 1, width)
    return [(stop, math.fsum(losses[stop - width : stop]) / width) for stop in stops]


def create_head(num_features: int, *, num_classes: int, seed: int, task: str) -> nn.Linear:
    """Creates a task's classifier with weights drawn from the seed.

    Shapes:
        returns: (batch, num_features) to (batch, num_classes).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head", task))
        return nn.Linear(num_features, num_classes)
