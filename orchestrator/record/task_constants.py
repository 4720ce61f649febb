"""Reads the measured constants of a base on its tasks, for any group of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.theory.gram import gradient_gram
from eval.theory.settings import TaskConstants
from eval.theory.sketch import sketched_products
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import SKETCH_FILE, ConstantsMetrics
from workers.artifacts.node_cache import NodeCache

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MeasuredTasks:
    """The constants of one base on several tasks, under one kind of head and augmentation."""

    tasks: tuple[str, ...]
    metrics: Mapping[str, ConstantsMetrics]
    """By task."""
    products: Array
    """Inner products of all batches' gradients, (N, Q, N, Q), in the order of `tasks`."""

    @cached_property
    def gram(self) -> Array:
        """The unbiased inner products of the tasks' gradients, (N, N)."""
        return gradient_gram(self.products)

    def of_group(self, tasks: Sequence[str]) -> TaskConstants:
        """Returns the constants of a group's tasks, in their order.

        Smoothness is the upper end of each bracket, so that a number is called a bound only if it
        is one anywhere in it; `L_p` is at most the largest `L_i`, which stands for it. All are NaN
        where curvature was not measured, so that no reach is inside. `F*` is 0, the safe floor.

        Raises:
            ValueError: A task was not measured.
        """
        chosen = [self.tasks.index(task) for task in tasks]
        metrics = [self.metrics[task] for task in tasks]
        curvatures = [each.curvature for each in metrics]
        smoothness = np.array([np.nan if each is None else each.high for each in curvatures])
        singles = [np.nan if each is None else each.single_max for each in curvatures]
        return TaskConstants(
            gram=self.gram[np.ix_(chosen, chosen)],
            noise=np.array([each.noise.value for each in metrics]),
            losses=np.array([each.loss.value for each in metrics]),
            smoothness=smoothness,
            mixture_smoothness=float(np.max(smoothness)),
            example_smoothness=float(np.max(singles)),
        )


def read_task_constants(
    artifacts: Artifacts, manifests: Mapping[str, Manifest], *, cache_root: Path
) -> MeasuredTasks:
    """Reads the constants of some tasks with their sketches, 8 MB a task.

    Args:
        artifacts: The artifacts of the store.
        manifests: Committed `constants`, by task; all of one base, kind of head and sample.
        cache_root: Directory of this machine's cache (`workers.artifacts.node_cache.cache_root`).

    Raises:
        StoreError: The store failed.
        CorruptArtifactError: A file differs from its manifest.
        ValueError: The tasks were measured with different numbers of batches.
    """
    cache = NodeCache(cache_root)
    metrics = {
        task: ConstantsMetrics.from_json(manifest.metrics) for task, manifest in manifests.items()
    }
    sketches = [
        np.load(artifacts.fetch(manifest, SKETCH_FILE, cache), allow_pickle=False)
        for manifest in manifests.values()
    ]
    exact = [np.array(each.products) for each in metrics.values()]
    return MeasuredTasks(
        tasks=tuple(manifests),
        metrics=metrics,
        products=sketched_products(sketches, exact=exact),
    )
