"""The numbers that predictors are judged by: excess and recovery of every merge.

They rank settings differently: the excess is the default, and every table names its target.
"""

import numpy as np

from orchestrator.theory.panel import Array, Panel

EXCESS = "excess"
"""Loss of the merge minus the mean over its tasks of the least loss that an expert of the task has
at any setting; nats per image."""
RECOVERY = "recovery"
"""(base_loss - loss) / (base_loss - expert_loss): the share of the experts' gain over the base that
the merge keeps."""


def target(panel: Panel, name: str, *, mean: str) -> Array:
    """Returns a target of every merge, as (S, G); NaN where it does not exist.

    The recovery does not exist where the experts are no better than the base.
    """
    loss = panel.group_means("loss", mean=mean)
    if name == EXCESS:
        return loss - reference(panel, mean=mean)
    expert = panel.group_means("expert_loss", mean=mean)
    base = panel.group_means("base_loss", mean=mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Array = (base - loss) / (base - expert)
    return np.where(base > expert, share, np.nan)


def reference(panel: Panel, *, mean: str) -> Array:
    """Returns the mean over each group's tasks of the least expert's loss at any setting, (G,).

    It is a constant of the group, so that it changes no rank within the group.
    """
    losses = panel.values["expert_loss"]
    least = np.where(np.isfinite(losses), losses, np.inf).min(axis=(0, 1))
    return panel.weights(mean) @ np.where(np.isfinite(least), least, 0.0)
