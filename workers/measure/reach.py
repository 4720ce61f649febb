"""Measures how far a path leads from the base, in units of a task's curvature."""

import math
import time

import numpy as np
from torch import Tensor

from eval.theory.curvature import path_reach
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import Measured, ReachMetrics
from workers.artifacts.provenance import Provenance
from workers.measure.constants import digests_of
from workers.measure.task_loss import TaskLoss, dot
from workers.sampling.determinism import compute_deterministically
from workers.specs.measures import ReachSpec
from workers.workspace import Workspace

STEP = 0.002
"""The share of the path on either side of its beginning over which its curvature is taken."""


def measure_reach(spec: ReachSpec, *, workspace: Workspace) -> Manifest:
    """Measures slope and curvature of a task's loss along a path, and the loss at its end.

    The curvature is the difference of two slopes, a share `STEP` of the path before and after its
    beginning: two gradients of each example, where a product with the Hessian takes more than five.
    Only the backbone's parameters move; running statistics stay the base's.

    Raises:
        MissingArtifactError: An input is not committed, or an expert has no weights.
        TooFewImagesError: The task has fewer training images than batches.
    """
    started = time.monotonic()
    compute_deterministically()
    loss = TaskLoss(spec.sample, workspace=workspace)
    states = [workspace.expert_tensors(each) for each in spec.experts]
    start, direction = loss.start(), loss.direction(states, spec.coefficients)
    starts = [float(loss.losses(positions).mean()) for positions in loss.batches()]
    before, after = (
        _slopes(loss, start=start, direction=direction, share=share) for share in (-STEP, STEP)
    )
    slopes = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
    curvatures = [(late - soon) / (2 * STEP) for soon, late in zip(before, after, strict=True)]
    loss.move(start, direction, share=1.0)
    ends = [float(loss.losses(positions).mean()) for positions in loss.batches()]
    num_examples = loss.batch_size * spec.sample.num_batches
    metrics = ReachMetrics(
        slope=_mean(slopes),
        curvature=_mean(curvatures),
        reach=_reach(curvatures, slopes),
        squared_length=dot(direction, direction),
        start_loss=float(np.mean(starts)),
        end_loss=float(np.mean(ends)) if math.isfinite(sum(ends)) else None,
        batch_size=loss.batch_size,
        num_gradients=2 * num_examples,
    )
    experts = {each: workspace.manifest("expert", each).digest for each in spec.experts}
    inputs = {**digests_of(spec.sample, workspace=workspace), **experts}
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="reach", inputs=inputs),
        files={},
        metrics=metrics.to_json(),
        seconds={"reach": time.monotonic() - started},
    )


def _slopes(
    loss: TaskLoss, *, start: list[Tensor], direction: list[Tensor], share: float
) -> list[float]:
    """Returns the slope along the path, at a share of it, on each batch."""
    loss.move(start, direction, share=share)
    slopes = []
    for positions in loss.batches():
        gradient, _ = loss.gradient(positions)
        slopes.append(dot(loss.parts(gradient), direction))
    return slopes


def _mean(values: list[float]) -> Measured:
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return Measured(value=float(np.mean(values)), standard_error=float(error))


def _reach(curvatures: list[float], slopes: list[float]) -> Measured | None:
    """Returns the ratio of the means, with its jackknife error over the batches."""

    def without(batch: int | None) -> float:
        kept = [each for each in range(len(slopes)) if each != batch]
        return path_reach(
            curvature=float(np.mean([curvatures[each] for each in kept])),
            slope=float(np.mean([slopes[each] for each in kept])),
        )

    value, others = without(None), np.array([without(batch) for batch in range(len(slopes))])
    if not (math.isfinite(value) and np.isfinite(others).all()):
        return None
    spread = float(np.sum((others - others.mean()) ** 2))
    error = math.sqrt((len(others) - 1) / len(others) * spread)
    return Measured(value=value, standard_error=error)
