"""Parameters of the methods that read images while merging."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from merge.parameters.method_params import DENSITY, SCALING, MethodParams, Scope
from merge.ranges import Choice, Count, Flag, Number, allow

Loss = Literal["entropy", "cross_entropy"]
"""The entropy of the predictions, or their cross-entropy against labels."""
Start = Literal["task_arithmetic", "average"]
Expectation = Literal["random_signs", "exact"]

IMAGES = Count(at_most=1_000_000)
STEPS = Count(at_most=100_000)


@dataclass(frozen=True, kw_only=True)
class AdaMergingParams(MethodParams):
    """AdaMerging learns the task vectors' coefficients on unlabelled test images.

    The defaults are the paper's; FusionBench takes 1,000 steps and does not clamp.
    """

    level: Scope = field(default="tensor", metadata=allow(Choice(get_args(Scope))))
    """What has a coefficient for each expert: the model (task-wise) or each tensor (layer-wise)."""
    initial: float = field(default=0.3, metadata=allow(SCALING))
    """Coefficients before the first step. Default: the paper, FusionBench."""
    steps: int = field(default=500, metadata=allow(STEPS))
    """Steps of Adam. Default: the paper."""
    lr: float = field(default=1e-3, metadata=allow(Number(above=0, at_most=1)))
    """Adam's step size, in coefficients. Default: the paper, FusionBench."""
    batch_size: int = field(default=16, metadata=allow(IMAGES))
    """Test images of every task a step. Default: the paper (its code takes two batches a step)."""
    clamp: bool = field(default=True, metadata=allow(Flag()))
    """Whether coefficients are used as clamped to [0, 1]. Default: the paper's code."""
    trim_density: float = field(default=1.0, metadata=allow(DENSITY))
    """Fraction of a task vector's entries that a trim as TIES' keeps; 1 is none, 0.2 is the paper's
    AdaMerging++."""


@dataclass(frozen=True, kw_only=True)
class FisherParams(MethodParams):
    """Fisher merging weighs every entry by its expert's diagonal Fisher information."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Training images a task, without labels. Default: FusionBench (paper: 4,096)."""
    expectation: Expectation = field(
        default="random_signs", metadata=allow(Choice(get_args(Expectation)))
    )
    """How the expectation over labels is taken: `exact` costs a backward pass for each image and
    class, `random_signs` one for each image, with the same mean. Default: by cost; paper: exact."""
    normalize: bool = field(default=True, metadata=allow(Flag()))
    """Whether each expert's Fisher is scaled to norm 1 over all weights. Default: the paper."""
    floor: float = field(default=1e-6, metadata=allow(Number(above=0, at_most=1)))
    """Least Fisher of an entry, after scaling; entries that no expert needs are averaged. Default:
    the paper's code, which applies it before scaling."""


@dataclass(frozen=True, kw_only=True)
class RegMeanParams(MethodParams):
    """RegMean solves for the layers that best repeat the experts' outputs on their own inputs."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Training images a task, without labels. Default: FusionBench (paper: about 1,000)."""
    reduce: float = field(default=0.9, metadata=allow(Number(at_least=0, at_most=1)))
    """Factor on the off-diagonal entries of the Gram matrices. Default: the paper."""


@dataclass(frozen=True, kw_only=True)
class FrankWolfeParams(MethodParams):
    """Frank-Wolfe merging moves towards the expert that the loss's gradient points at most.

    The defaults are FusionBench's, but for its second factor of 0.3 on every step.
    """

    iterations: int = field(default=10, metadata=allow(STEPS))
    """Moves. Default: FusionBench; the paper takes 3 for images."""
    images: int = field(default=100, metadata=allow(IMAGES))
    """Labelled training images a task, the same ones for every move. Default: FusionBench."""
    start: Start = field(default="task_arithmetic", metadata=allow(Choice(get_args(Start))))
    """The model before the first move. Default: FusionBench."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors at a start by task arithmetic. Default: FusionBench."""
    granularity: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """What chooses its expert: the model or each tensor. Default: FusionBench (`task`)."""
    step_scale: float = field(default=0.1, metadata=allow(Number(above=0, at_most=1)))
    """Factor on the paper's steps 2 / (t + 2), the first of which, 1, would drop the start.
    Default: FusionBench; the paper's is 1."""


@dataclass(frozen=True, kw_only=True)
class FrankWolfeSoftParams(MethodParams):
    """Soft Frank-Wolfe merging learns how far to move towards each of several experts at once.

    The defaults are FusionBench's, but for the loss. The paper's moves are `top_k` with `in_hull`.
    """

    iterations: int = field(default=10, metadata=allow(STEPS))
    """Moves. Default: FusionBench; the paper takes 15."""
    images: int = field(default=100, metadata=allow(IMAGES))
    """Labelled training images a task to choose experts by, the same ones for every move. Default:
    the paper, FusionBench."""
    top_k: int = field(default=0, metadata=allow(Count(at_least=0, at_most=1000)))
    """Experts chosen for a move, those that the gradient of the summed loss promises most of, as in
    the paper. 0 lets each task in turn choose one that is left by its own loss, as in FusionBench:
    of as many experts as tasks that is all of them."""
    granularity: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """What chooses its experts: the model or each tensor. Default: the paper, FusionBench."""
    initial: float = field(default=0.3, metadata=allow(SCALING))
    """What Adam starts from in the first move: the fraction of the way to each expert chosen, for
    each tensor. Default: FusionBench."""
    initial_later: float = field(default=1e-8, metadata=allow(SCALING))
    """The same in all other moves. Default: FusionBench; its authors' runs take 0.01 as well."""
    steps: int = field(default=500, metadata=allow(STEPS))
    """Steps of Adam in a move. Default: FusionBench."""
    lr: float = field(default=1e-3, metadata=allow(Number(above=0, at_most=1)))
    """Adam's step size, in fractions of the way. Default: FusionBench."""
    batch_size: int = field(default=16, metadata=allow(IMAGES))
    """Images of every task a step. Default: FusionBench."""
    loss: Loss = field(default="cross_entropy", metadata=allow(Choice(get_args(Loss))))
    """What a move minimises: the cross-entropy on labelled training images, or the entropy of the
    predictions on test images. Default: the paper; FusionBench's is entropy."""
    in_hull: bool = field(default=False, metadata=allow(Flag()))
    """Whether fractions are kept from 0 to a sum of 1 for each tensor, so that the model stays
    among base and experts, as in the paper. Default: FusionBench."""

    @property
    def reads_test_images(self) -> bool:
        """Whether moves are learned on unlabelled test images."""
        return self.loss == "entropy"


@dataclass(frozen=True, kw_only=True)
class GreedySoupParams(MethodParams):
    """A greedy soup averages the experts that do not make it worse, the best first."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Labelled training images a task to choose by; those that the task's expert was not trained on
    come first. The paper holds out 2 % of the training images."""
