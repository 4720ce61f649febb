"""The axis of a model's size: the number of its weights in place of its name, for laws.

Source: arXiv:2509.24244 states a floor with a tail in the size of the model, from models of one
family. timm's models differ in more than their size, so a law here describes those that were tried.
"""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.costs.sizes import sizes_by_base
from orchestrator.plan.plan import Plan
from orchestrator.theory.panel import Panel

MODEL_AXIS = "model"
SIZE_AXIS = "million weights"
Sizes = Mapping[str, float]
"""The trainable weights of each model's backbone in millions, by timm's name."""


def model_sizes(plan: Plan) -> Sizes:
    """Returns the sizes of the models that a study varies, as far as timm knows them here."""
    if len(plan.study.backbone.axes.model) < 2:  # noqa: PLR2004 one value is no axis
        return {}
    sizes = sizes_by_base(plan)
    return {
        base.model: sizes[base.id].num_parameters / 1e6
        for base in plan.bases.by_id.values()
        if base.id in sizes
    }


def with_size_axis(panel: Panel, sizes: Sizes) -> Panel:
    """Returns the panel with the sizes of its models as the axis in place of their names.

    The names stay where a size is not known, or where two models have the same.
    """
    models = panel.axes.get(MODEL_AXIS, {})
    if not models or not models.keys() <= sizes.keys():
        return panel
    by_size = {sizes[model]: at for model, at in models.items()}
    if len(by_size) < len(models):
        return panel
    values = {f"{size:.6g}": by_size[size] for size in sorted(by_size)}
    axes = {
        SIZE_AXIS if axis == MODEL_AXIS else axis: values if axis == MODEL_AXIS else each
        for axis, each in panel.axes.items()
    }
    return replace(panel, axes=axes)
