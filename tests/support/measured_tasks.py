"""Constants of a plan's tasks that were never measured: for tests of everything made from them."""

import numpy as np

from orchestrator.plan.plan import Plan
from orchestrator.record.task_constants import MeasuredTasks
from workers.artifacts.measured import ConstantsMetrics, CurvatureMetrics, Measured


def measured_tasks(
    plan: Plan, *, curvature: float | None = 2.0, has_kinks: bool = False
) -> MeasuredTasks:
    """Returns constants of the plan's tasks, of fixed gradients."""
    bracket = curvature and CurvatureMetrics(
        low=curvature,
        high=curvature,
        low_sd=None,
        high_sd=None,
        num_images=8,
        num_pairs=1,
        single_mean=curvature,
        single_max=2 * curvature,
        num_singles=1,
    )
    metrics = {
        task: ConstantsMetrics(
            products=(),
            batch_size=8,
            num_weights=50,
            has_kinks=has_kinks,
            has_batch_norm=True,
            squared_gradient=Measured(value=1.0, standard_error=0.1),
            noise=Measured(value=3.0, standard_error=0.1),
            loss=Measured(value=2.0, standard_error=0.1),
            curvature=bracket or None,
            num_gradients=32,
            num_products=0,
        )
        for task in sorted(plan.study.task_names)
    }
    gradients = np.random.default_rng(0).standard_normal((len(metrics), 4, 50))
    products = np.einsum("iqd,jrd->iqjr", gradients, gradients)
    return MeasuredTasks(tasks=tuple(metrics), metrics=metrics, products=products)
