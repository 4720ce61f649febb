"""Fine-tunes a backbone and a fresh head on one task.

Every random choice is a function of the seed and of the step alone, so that the first k steps of
a long run are bit for bit a run of k steps: what snapshots at several step counts rely on.
That holds for dropout as well, which some of timm's models have by default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eval.evaluate import autocast
from eval.images import Split
from eval.joint_split import JointSplit
from eval.model_inputs import to_inputs
from workers.backbones import Backbone
from workers.batch_norm import batch_norms
from workers.seeds import derive_seed
from workers.specs import ExpertSpec, OptimizerSpec, PretrainSpec
from workers.tuning_state import (
    UnfitStateError,
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


def training_subset(num_images: int, *, data_ratio: float, seed: int) -> npt.NDArray[np.int64]:
    """Returns which training images a data ratio keeps: nested, the smaller inside the larger.

    Shapes:
        returns: (ceil(data_ratio * num_images),), positions in the training split.
    """
    generator = np.random.default_rng(derive_seed(seed, "data ratio"))
    kept = math.ceil(data_ratio * num_images - 1e-9)
    return generator.permutation(num_images)[: max(1, kept)].astype(np.int64)


def batch_positions(
    subset: npt.NDArray[np.int64], *, step: int, batch_size: int, seed: int
) -> npt.NDArray[np.int64]:
    """Returns the images of one step: a cut out of an endless stream of shuffled epochs.

    Epochs follow one another without a short batch between them, so that every step has
    `batch_size` images, also where the subset is smaller than a batch.

    Shapes:
        returns: (batch_size,).
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    size = len(subset)
    pieces = []
    for epoch in range(start // size, (stop - 1) // size + 1):
        order = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(size)
        offset = epoch * size
        pieces.append(subset[order[max(0, start - offset) : stop - offset]])
    return np.concatenate(pieces)


def learning_rate(spec: ExpertSpec | PretrainSpec, *, step: int) -> float:
    """Returns the learning rate of a step, counted from 0; cosine ends at 0 after the last."""
    if spec.schedule == "constant":
        return spec.lr
    return spec.lr * 0.5 * (1 + math.cos(math.pi * step / spec.steps))


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
    _optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        self._subset = training_subset(len(self.train), data_ratio=spec.data_ratio, seed=spec.seed)
        parameters = [
            each
            for module in (self.backbone.module, self.head)
            for each in module.parameters()
            if each.requires_grad
        ]
        self._optimizer = _optimizer(spec.optimizer, parameters=parameters, lr=spec.lr)
        self.set_training_mode()

    def advance(self) -> None:
        """Takes one optimizer step.

        Raises:
            DivergedError: The loss is not finite; the weights are those before the step, and
                BatchNorm's statistics have seen the step's images.
        """
        spec = self.spec
        positions = batch_positions(
            self._subset, step=self.step, batch_size=spec.batch_size, seed=spec.seed
        )
        images, targets = self.train.batch(positions)
        inputs = to_inputs(images, normalization=self.backbone.normalization, device=self.device)
        labels = torch.from_numpy(targets).to(self.device)
        torch.manual_seed(derive_seed(spec.seed, "step", self.step))
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            logits = self.head(self.backbone.module(inputs))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        self._note(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = learning_rate(spec, step=self.step)
        self._optimizer.step()
        self.step += 1

    def state(self) -> dict[str, Tensor]:
        """Returns all that later steps depend on besides the specification and `step`.

        Shapes:
            backbone.<name>, head.<name>: weights and buffers, themselves and not copies.
            optimizer.<position>.<name>: the same of what the optimizer keeps for each parameter.
            losses: (step,), float64.
        """
        return {
            **model_tensors(self.backbone.module, self.head),
            **optimizer_tensors(self._optimizer),
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
        restore_tensors(
            tensors, backbone=self.backbone.module, head=self.head, optimizer=self._optimizer
        )
        self.losses = losses.tolist()
        self.step = step

    def set_training_mode(self) -> None:
        """Makes the model ready for steps, after an evaluation too."""
        self.backbone.module.train()
        self.head.train()
        if self.spec.freeze_batch_norm:
            for norm in batch_norms(self.backbone.module):
                norm.eval()

    def _note(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {self.step}")
        self.losses.append(loss)


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


def _optimizer(
    spec: OptimizerSpec, *, parameters: list[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    if spec.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
    adam = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    betas = (spec.momentum, 0.999)
    return adam(parameters, lr=lr, betas=betas, weight_decay=spec.weight_decay, fused=True)
