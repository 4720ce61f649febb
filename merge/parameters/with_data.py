"""Parameters of the methods that read images while merging."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from merge.parameters.method_params import DENSITY, FACTOR, MethodParams, Scope
from merge.ranges import Choice, Count, Flag, Number, allow

Loss = Literal["entropy", "cross_entropy"]
"""The entropy of the predictions, or their cross-entropy against labels."""
Start = Literal["task_arithmetic", "average"]
Expectation = Literal["random_signs", "exact"]

IMAGES = Count(at_most=1_000_000)
"""Range of numbers of images."""
STEPS = Count(at_most=100_000)
"""Range of numbers of steps."""


@dataclass(frozen=True, kw_only=True)
class AdaMergingParams(MethodParams):
    """Parameters of AdaMerging, which learns coefficients on unlabelled test images.

    The defaults are the paper's. FusionBench takes 1,000 steps and does not clamp.
    """

    level: Scope = field(default="tensor", metadata=allow(Choice(get_args(Scope))))
    """Whether each expert has one coefficient (`model`, the paper's task-wise variant) or one for
    each tensor (`tensor`, layer-wise)."""
    initial: float = field(default=0.3, metadata=allow(FACTOR))
    """Coefficients before the first step. Default: the paper, FusionBench."""
    steps: int = field(default=500, metadata=allow(STEPS))
    """Steps of Adam. Default: the paper."""
    lr: float = field(default=1e-3, metadata=allow(Number(above=0, at_most=1)))
    """Adam's step size, in coefficients. Default: the paper, FusionBench."""
    batch_size: int = field(default=16, metadata=allow(IMAGES))
    """Test images of each task per step. Default: the paper (its code: two batches per step)."""
    clamp: bool = field(default=True, metadata=allow(Flag()))
    """Whether coefficients are clamped to [0, 1] when used. Default: the paper's code."""
    trim_density: float = field(default=1.0, metadata=allow(DENSITY))
    """Fraction of a task vector's entries that a trim like TIES' keeps. 1 means no trim, 0.2 is the
    paper's AdaMerging++."""


@dataclass(frozen=True, kw_only=True)
class FisherParams(MethodParams):
    """Parameters of Fisher merging, which weights entries by their Fisher information."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Training images per task, without labels. Default: FusionBench (paper: 4,096)."""
    expectation: Expectation = field(
        default="random_signs", metadata=allow(Choice(get_args(Expectation)))
    )
    """Estimator of the expectation over labels: `exact` takes one backward pass per image and
    class; `random_signs` takes one per image and has the same mean. Default: the cheaper one
    (paper: exact)."""
    normalize: bool = field(default=True, metadata=allow(Flag()))
    """Whether each expert's Fisher is scaled to norm 1 over all weights. Default: the paper."""
    floor: float = field(default=1e-6, metadata=allow(Number(above=0, at_most=1)))
    """Least Fisher information of an entry, applied after scaling. Entries that no expert needs are
    therefore averaged. Default: the paper's code, which applies it before scaling."""


@dataclass(frozen=True, kw_only=True)
class RegMeanParams(MethodParams):
    """Parameters of RegMean, which fits each layer to the experts' outputs by least squares."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Training images per task, without labels. Default: FusionBench (paper: about 1,000)."""
    reduce: float = field(default=0.9, metadata=allow(Number(at_least=0, at_most=1)))
    """Factor on the off-diagonal entries of the Gram matrices. Default: the paper."""


@dataclass(frozen=True, kw_only=True)
class FrankWolfeParams(MethodParams):
    """Parameters of Frank-Wolfe merging, which moves to the expert that lowers the loss most.

    The defaults are FusionBench's, without its second factor of 0.3 on every step.
    """

    iterations: int = field(default=10, metadata=allow(STEPS))
    """Number of moves. Default: FusionBench (paper: 3 for images)."""
    images: int = field(default=100, metadata=allow(IMAGES))
    """Labelled training images per task, the same for every move. Default: FusionBench."""
    start: Start = field(default="task_arithmetic", metadata=allow(Choice(get_args(Start))))
    """The model before the first move. Default: FusionBench."""
    scaling: float = field(default=0.3, metadata=allow(FACTOR))
    """Factor on the task vectors' sum, if the start is task arithmetic. Default: FusionBench."""
    granularity: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """Whether the model or each tensor chooses its expert. Default: FusionBench (`task`)."""
    step_scale: float = field(default=0.1, metadata=allow(Number(above=0, at_most=1)))
    """Factor on the paper's step sizes 2 / (t + 2). Without it the first step size, 1, drops the
    start. Default: FusionBench (paper: 1)."""


@dataclass(frozen=True, kw_only=True)
class FrankWolfeSoftParams(MethodParams):
    """Parameters of soft Frank-Wolfe merging, which learns moves towards several experts.

    The defaults are FusionBench's, except for the loss. The paper uses `top_k` with `in_hull`.
    """

    iterations: int = field(default=10, metadata=allow(STEPS))
    """Number of moves. Default: FusionBench (paper: 15)."""
    images: int = field(default=100, metadata=allow(IMAGES))
    """Labelled training images per task for the choice of experts, the same for every move.
    Default: the paper, FusionBench."""
    top_k: int = field(default=0, metadata=allow(Count(at_least=0, at_most=1000)))
    """Number of experts chosen for a move by the gradient of the summed loss, as in the paper. With
    0, each task in turn chooses one of the remaining experts by its own loss, as in FusionBench; if
    there are as many experts as tasks, all are chosen."""
    granularity: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """Whether the model or each tensor chooses its experts. Default: the paper, FusionBench."""
    initial: float = field(default=0.3, metadata=allow(FACTOR))
    """Adam's starting point in the first move: the fraction of the way to each chosen expert, for
    each tensor. Default: FusionBench."""
    initial_later: float = field(default=1e-8, metadata=allow(FACTOR))
    """The same for all later moves. Default: FusionBench; its authors also ran 0.01."""
    steps: int = field(default=500, metadata=allow(STEPS))
    """Steps of Adam per move. Default: FusionBench."""
    lr: float = field(default=1e-3, metadata=allow(Number(above=0, at_most=1)))
    """Adam's step size, in fractions of the way. Default: FusionBench."""
    batch_size: int = field(default=16, metadata=allow(IMAGES))
    """Images of each task per step. Default: FusionBench."""
    loss: Loss = field(default="cross_entropy", metadata=allow(Choice(get_args(Loss))))
    """The loss that a move minimises: the cross-entropy on labelled training images, or the entropy
    of the predictions on unlabelled test images. Default: the paper (FusionBench: entropy)."""
    in_hull: bool = field(default=False, metadata=allow(Flag()))
    """Whether a tensor's fractions stay at least 0 with a sum of at most 1, so that the model stays
    in the convex hull of base and experts, as in the paper. Default: FusionBench."""

    @property
    def reads_test_images(self) -> bool:
        """Whether moves are learned on unlabelled test images."""
        return self.loss == "entropy"


@dataclass(frozen=True, kw_only=True)
class GreedySoupParams(MethodParams):
    """Parameters of greedy soups, which average the experts that do not lower the accuracy."""

    images: int = field(default=256, metadata=allow(IMAGES))
    """Labelled training images per task for the choice; images that the task's expert was not
    trained on come first. The paper holds out 2 % of the training images."""
