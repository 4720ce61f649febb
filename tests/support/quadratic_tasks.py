"""Four quadratic tasks with known constants, on which every statement of the theory is exact."""

import numpy as np

from eval.theory.accumulation import Accumulation, sgd
from eval.theory.settings import MergeSetting, TaskConstants

NUM_TASKS, DIMENSIONS, NUM_EXAMPLES = 4, 20, 50
CURVATURES = np.exp(np.linspace(np.log(0.1), 0, DIMENSIONS))
"""The diagonal of A; `L = 1`, `mu = 0.1`. An example's loss is `(x - z)'A(x - z) / 2`."""
SPREADS = np.array([0.7, 0.9, 1.1, 1.3])
"""Examples of task i are normal around `CENTRES[i]` with this deviation."""
_RAW = np.cos(np.outer(np.arange(1, 5), np.arange(1, 21)))
CENTRES = _RAW - _RAW.mean(axis=0)
START = np.full(DIMENSIONS, 3 / np.sqrt(20))
EQUAL = np.full(NUM_TASKS, 1 / NUM_TASKS)

NOISE = SPREADS**2 * np.sum(CURVATURES**2)
GRADIENTS = (START - CENTRES) * CURVATURES
LOSSES = np.array(
    [
        0.5 * np.sum(CURVATURES * (START - centre) ** 2) + 0.5 * spread**2 * CURVATURES.sum()
        for centre, spread in zip(CENTRES, SPREADS, strict=True)
    ]
)
LEAST_LOSS = float(
    np.mean(
        [
            0.5 * np.sum(CURVATURES * centre**2) + 0.5 * spread**2 * CURVATURES.sum()
            for centre, spread in zip(CENTRES, SPREADS, strict=True)
        ]
    )
)


def constants(*, noise: float = 1.0, smoothness: float = 1.0) -> TaskConstants:
    """Returns the tasks' exact population constants, with noise and curvature scaled."""
    return TaskConstants(
        gram=GRADIENTS @ GRADIENTS.T,
        noise=noise * NOISE,
        losses=LOSSES,
        smoothness=np.full(NUM_TASKS, smoothness),
        mixture_smoothness=smoothness,
        example_smoothness=smoothness,
        least_loss=LEAST_LOSS,
    )


def setting(
    *,
    lr: float = 0.025,
    steps: int = 20,
    batch_size: int = 5,
    num_examples: int = NUM_EXAMPLES,
    scale: float = 1.0,
    accumulation: Accumulation | None = None,
) -> MergeSetting:
    """Returns the average of four equally trained experts."""
    return MergeSetting(
        weights=EQUAL,
        coefficients=scale * EQUAL,
        lr=np.full(NUM_TASKS, lr),
        batch_sizes=np.full(NUM_TASKS, batch_size),
        num_examples=np.full(NUM_TASKS, num_examples),
        accumulations=(accumulation or sgd([1.0] * steps),) * NUM_TASKS,
    )
