"""A merge's setting and the constants of its tasks, from which all statements are computed."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eval.theory.accumulation import Accumulation

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MergeSetting:
    """The tasks of a group, how each expert was trained, and how they are merged.

    Shapes: all (N,), in the order of the tasks. Settings may differ from task to task.
    """

    weights: npt.ArrayLike
    """`p_i`, the tasks' weights in the metric; they sum to 1."""
    coefficients: npt.ArrayLike
    """`alpha_i`, the merge's coefficients; 1/N for the average."""
    lr: npt.ArrayLike
    """`lr_i`, peak learning rates."""
    batch_sizes: npt.ArrayLike
    """`b_i`, examples in a step."""
    num_examples: npt.ArrayLike
    """`n_i`, training examples after `data_ratio`."""
    accumulations: tuple[Accumulation, ...]
    """`a_i`, one for each expert."""

    p: Vector = field(init=False, repr=False)
    alpha: Vector = field(init=False, repr=False)
    eta: Vector = field(init=False, repr=False)
    b: Vector = field(init=False, repr=False)
    n: Vector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        num_tasks = len(self.accumulations)
        given = {
            "p": self.weights,
            "alpha": self.coefficients,
            "eta": self.lr,
            "b": self.batch_sizes,
            "n": self.num_examples,
        }
        for name, values in given.items():
            array = np.asarray(values, dtype=float)
            if array.shape != (num_tasks,):
                raise ValueError(f"{name} has the shape {array.shape} for {num_tasks} experts")
            object.__setattr__(self, name, array)
        if not np.isclose(self.p.sum(), 1.0):
            raise ValueError(f"the weights of the tasks sum to {self.p.sum():.6g} instead of 1")

    @property
    def totals(self) -> Vector:
        """`A_i`, the sums of the accumulation vectors."""
        return np.array([each.total for each in self.accumulations])

    @property
    def is_plain_sgd(self) -> bool:
        """Whether all experts were trained by SGD at a constant rate, without momentum."""
        return all(each.is_plain for each in self.accumulations)


@dataclass(frozen=True, kw_only=True)
class TaskConstants:
    """The constants of a base on the tasks of a group, under one kind of head.

    Shapes: (N,), `gram` (N, N). Units: losses in nats, gradients in nats per weight.
    """

    gram: Vector
    """`M`, the inner products of the tasks' gradients at the base (`gram.gradient_gram`). Unbiased
    values below 0 on its diagonal stay as they are."""
    noise: Vector
    """`sigma_i2`, of single examples."""
    losses: Vector
    """`F_i` at the base."""
    smoothness: Vector
    """`L_i`, of each task's loss."""
    mixture_smoothness: float
    """`L_p`, of the tasks' weighted mean."""
    example_smoothness: float
    """`L1`, of single examples' losses."""
    least_loss: float = 0.0
    """`F*`, the least loss of one shared model; 0 is the safe floor."""
