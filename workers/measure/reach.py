"""Measures how far a path leads from the base, in units of a task's curvature."""

import math
import time

import numpy as np
import numpy.typing as npt

from eval.theory.curvature import path_reach
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import Measured, ReachMetrics
from workers.artifacts.provenance import Provenance
from workers.measure.constants import digests_of
from workers.measure.task_loss import TaskLoss, dot
from workers.sampling.determinism import compute_deterministically
from workers.specs.measures import ReachSpec
from workers.workspace import Workspace

STEP = 0.05
"""The share of the path on either side of its beginning over which slope and curvature are taken.

Shorter steps are worse: a network with kinks has a rough slope, so that the curvature's error grows
as the step shrinks (`README.md`).
"""


def measure_reach(spec: ReachSpec, *, workspace: Workspace) -> Manifest:
    """Measures slope and curvature of a task's loss along a path, and the loss at its end.

    Both are differences of losses, a share `STEP` of the path before and after its beginning. Only
    the backbone's parameters move; running statistics stay the base's. Cost: three forward passes,
    and one for all paths of a task in this process.

    Raises:
        MissingArtifactError: An input is not committed, or an expert has no weights.
        TooFewImagesError: The task has fewer training images than batches.
    """
    started = time.monotonic()
    compute_deterministically()
    loss = TaskLoss(spec.sample, workspace=workspace)
    states = [workspace.expert_tensors(each) for each in spec.experts]
    start, direction = loss.start(), loss.direction(states, spec.coefficients)

    batches = loss.batches()
    begin = np.array([float(loss.start_losses(positions).mean()) for positions in batches])

    def losses(share: float) -> npt.NDArray[np.float64]:
        """Returns the mean loss of each batch at a share of the path."""
        loss.move(start, direction, share=share)
        return np.array([float(loss.losses(positions).mean()) for positions in batches])

    before, after, end = (losses(share) for share in (-STEP, STEP, 1.0))
    slopes = (after - before) / (2 * STEP)
    curvatures = (after - 2 * begin + before) / STEP**2
    metrics = ReachMetrics(
        slope=_mean(slopes),
        curvature=_mean(curvatures),
        reach=_reach(curvatures, slopes),
        squared_length=dot(direction, direction),
        start_loss=float(begin.mean()),
        end_loss=float(end.mean()) if np.isfinite(end).all() else None,
        batch_size=loss.batch_size,
        num_passes=3 * loss.batch_size * spec.sample.num_batches,
    )
    experts = {each: workspace.manifest("expert", each).digest for each in spec.experts}
    inputs = {**digests_of(spec.sample, workspace=workspace), **experts}
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="reach", inputs=inputs),
        files={},
        metrics=metrics.to_json(),
        seconds={"reach": time.monotonic() - started},
    )


def _mean(values: npt.NDArray[np.float64]) -> Measured | None:
    """Returns the mean with its standard error; None if a value is not finite."""
    if not np.isfinite(values).all():
        return None
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return Measured(value=float(np.mean(values)), standard_error=float(error))


def _reach(curvatures: npt.NDArray[np.float64], slopes: npt.NDArray[np.float64]) -> Measured | None:
    """Returns the ratio of the means, with its jackknife error over the batches."""

    def without(batch: int | None) -> float:
        kept = [each for each in range(len(slopes)) if each != batch]
        return path_reach(
            curvature=float(curvatures[kept].mean()),
            slope=float(slopes[kept].mean()),
        )

    value, others = without(None), np.array([without(batch) for batch in range(len(slopes))])
    if not (math.isfinite(value) and np.isfinite(others).all()):
        return None
    spread = float(np.sum((others - others.mean()) ** 2))
    error = math.sqrt((len(others) - 1) / len(others) * spread)
    return Measured(value=value, standard_error=error)
