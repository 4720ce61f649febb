"""The settings of a study that advice can compare: those that differ in axes with predictors only.

Predictors know learning rates, batch sizes, steps and the number of images. Settings that differ in
anything else, such as the optimizer or the base, would look equal to them, so only one of such
kinds is used: that with the most settings. Repetitions with other seeds count as one setting with
their mean loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from eval.counts import first_names
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import BasePoint, Setting, value_text
from orchestrator.results.schema import MACRO
from orchestrator.theory.panel import Panel
from workers.specs.hyperparameters import Hyperparameters

AXES = ("lr", "batch_size", "steps", "data_ratio")
"""The hyperparameters that predictors know, in the order in which settings are written."""
NUM_NAMED = 3
"""Settings that a sentence names."""

_Kind = tuple[BasePoint, Hyperparameters]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The comparable settings of one method, in groups that all of them have."""

    panel: Panel
    """Its settings are distinct points; repetitions with other seeds are averaged."""
    points: tuple[Hyperparameters, ...]
    """The hyperparameters of each of the panel's settings."""
    left_out: tuple[str, ...]
    """Sentences on the settings that are not used, or whose losses are cut."""


def tried_settings(panel: Panel, plan: Plan) -> Tried:
    """Returns the comparable settings of a method; there may be none."""
    by_name = {setting.name: setting for setting in plan.settings}
    kinds: dict[_Kind, list[int]] = {}
    mixed = []
    for index, name in enumerate(panel.settings):
        kind = _kind(by_name[name]) if name in by_name else None
        if kind is None:
            mixed.append(name)
        else:
            kinds.setdefault(kind, []).append(index)
    used = max(kinds.values(), key=len, default=[])
    whole = panel.at(used).balanced()
    points: dict[Hyperparameters, list[int]] = {}
    for index, name in enumerate(whole.settings):
        point = by_name[name].shared_point
        assert point is not None, "settings of mixed points have no kind"
        points.setdefault(replace(point, seed=0), []).append(index)
    firsts = [by_name[whole.settings[indices[0]]].shared_point for indices in points.values()]
    averaged, far = _cut(_averaged(whole, list(points.values())))
    sentences = _left_out(panel, used=used, mixed=mixed, whole=whole)
    if far:
        sentences.append(
            f"{first_names(far, most=NUM_NAMED)}: their losses are cut to the median of the "
            "settings plus its distance to the least one, as how bad a setting is says nothing "
            "about the best"
        )
    return Tried(
        panel=averaged,
        points=tuple(point for point in firsts if point is not None),
        left_out=tuple(sentences),
    )


def setting_text(point: Hyperparameters, axes: Sequence[str]) -> str:
    """Returns a point as tables name it: `lr=0.001, steps=80`."""
    return ", ".join(f"{axis}={value_text(getattr(point, axis))}" for axis in axes)


def values_of(point: Hyperparameters) -> tuple[float, ...]:
    """Returns the values of a point on all `AXES`."""
    return tuple(getattr(point, axis) for axis in AXES)


def differing(points: Sequence[Hyperparameters]) -> tuple[str, ...]:
    """Returns the axes of `AXES` on which some points differ; `lr` if none does."""
    names = [axis for axis in AXES if len({getattr(point, axis) for point in points}) > 1]
    return tuple(names) or AXES[:1]


def beside_default(point: Hyperparameters, default: Hyperparameters) -> Mapping[str, object]:
    """Returns the hyperparameters of a point that are not the default's, and all of `AXES`."""
    return {
        each.name: getattr(point, each.name)
        for each in fields(Hyperparameters)
        if each.name in AXES or getattr(point, each.name) != getattr(default, each.name)
    }


def _kind(setting: Setting) -> _Kind | None:
    """Returns everything about a setting but its values on `AXES`; None if experts differ."""
    point = setting.shared_point
    if point is None:
        return None
    rest = replace(point.canonical(), lr=0.0, batch_size=0, steps=0, data_ratio=0.0, seed=0)
    return setting.base, rest


def _averaged(panel: Panel, repeated: Sequence[Sequence[int]]) -> Panel:
    """Returns the panel of the first setting of each list, with the means over the list."""
    firsts = panel.at([indices[0] for indices in repeated])
    means = {
        name: np.array([values[list(indices)].mean(axis=0) for indices in repeated]).reshape(
            firsts.values[name].shape
        )
        for name, values in panel.values.items()
    }
    return replace(firsts, values=means)


def _cut(panel: Panel) -> tuple[Panel, list[str]]:
    """Returns the panel with cut losses, and the settings whose loss is cut in most groups.

    Without it, a rate at which training fails would decide the error of every predictor: its loss
    is many times further from the others than they are from the best.
    """
    if not panel.settings:
        return panel, []
    loss = panel.group_means("loss", mean=MACRO)
    middle, least = np.median(loss, axis=0), loss.min(axis=0)
    kept = np.minimum(1.0, (2 * middle - least) / loss)
    values = {**panel.values, "loss": panel.values["loss"] * kept[:, :, None]}
    is_far = (kept < 1).mean(axis=1) > 1 / 2
    far = [name for name, each in zip(panel.settings, is_far, strict=True) if each]
    return replace(panel, values=values), far


def _left_out(
    panel: Panel, *, used: Sequence[int], mixed: Sequence[str], whole: Panel
) -> list[str]:
    """Returns a sentence for each reason to leave settings out."""
    others = [
        name
        for index, name in enumerate(panel.settings)
        if index not in set(used) and name not in mixed
    ]
    kept = whole.settings or panel.settings  # one setting alone lacks nothing
    lacking = [panel.settings[index] for index in used if panel.settings[index] not in kept]
    reasons = {
        "their experts differ within a setting": mixed,
        f"they differ in more than {', '.join(AXES)}": others,
        "they share no groups with the others, or have no finite loss": lacking,
    }
    return [
        f"{first_names(names, most=NUM_NAMED)}: not used, as {reason}"
        for reason, names in reasons.items()
        if names
    ]
