"""Chooses the part of a large study that the report shows; a small study is shown whole.

A page with tens of thousands of rows takes minutes to open and shows nobody anything. From some
size on, an axis is represented by some of its values, and the groups by some of them: always the
best and the worst. All rows are in the tables beside the report.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.results.means import (
    CATEGORICAL_AXES,
    Row,
    SettingMean,
    numbers_of,
    ordered_values,
    spread,
)

MAX_SETTINGS = 240
"""Values times methods of an axis from which only some values are shown."""
NUM_VALUES = 40
"""Values that such an axis shows, if it has few methods."""
MAX_GROUPS = 100
"""Groups from which only some are shown group by group."""
NUM_GROUPS = 40
"""Groups that are shown then."""


@dataclass(frozen=True, kw_only=True)
class ShownAxis:
    """The settings of an axis that figures and tables show."""

    settings: tuple[SettingMean, ...]
    note: str
    """A sentence on the part that was left out; empty if nothing was."""


def shown_axis(settings: Sequence[SettingMean]) -> ShownAxis:
    """Returns all settings of an axis, or of a large one those of some values.

    Of numbers, it takes the first, the last and some between at equal distances, as a curve needs;
    of names, the best and the worst. The best and the worst of all values are always among them.
    """
    if len(settings) <= MAX_SETTINGS:
        return ShownAxis(settings=tuple(settings), note="")
    num_methods = len({each.method for each in settings})
    most = max(2, min(NUM_VALUES, MAX_SETTINGS // num_methods))
    values = ordered_values(each.value for each in settings)
    if len(values) <= most:
        return ShownAxis(settings=tuple(settings), note="")
    accuracies: dict[str, list[float]] = {value: [] for value in values}
    for each in settings:
        accuracies[each.value].append(each.macro.accuracy.mean)
    ranked = _ranked(values, score=lambda value: spread(accuracies[value]).mean)
    if settings[0].axis in CATEGORICAL_AXES or numbers_of(values) is None:
        chosen = _ends(ranked, most)
        which = f"the {most - most // 2} best and the {most // 2} worst"
    else:
        chosen = {*_spaced(values, most), ranked[0], ranked[-1]}
        which = "values at equal distances, the best and the worst"
    return ShownAxis(
        settings=tuple(each for each in settings if each.value in chosen),
        note=(
            f"Of {len(values):,} values, figures and numbers show {len(chosen)}: {which} by macro "
            "accuracy over all methods."
        ),
    )


def shown_groups(rows: Iterable[Row]) -> frozenset[str]:
    """Returns the names of all groups, or of many groups the best and the worst.

    Args:
        rows: The macro rows of one setting, a row per group and method.
    """
    accuracies: dict[str, list[float | None]] = {}
    for row in rows:
        accuracies.setdefault(row["group"], []).append(row["accuracy"])
    if len(accuracies) <= MAX_GROUPS:
        return frozenset(accuracies)
    ranked = _ranked(accuracies, score=lambda group: spread(accuracies[group]).mean)
    return frozenset(_ends(ranked, NUM_GROUPS))


def _ranked(names: Iterable[str], *, score: Callable[[str], float]) -> list[str]:
    """Returns the names from the best to the worst; a name without a finite score comes last."""
    scores = {name: score(name) for name in names}
    return sorted(scores, key=lambda name: (scores[name] != scores[name], -scores[name]))


def _ends(ranked: Sequence[str], num: int) -> set[str]:
    """Returns the best and the worst names, half of each."""
    return {*ranked[: num - num // 2], *ranked[len(ranked) - num // 2 :]}


def _spaced(values: Sequence[str], num: int) -> list[str]:
    """Returns some values at equal distances in their order, with the first and the last."""
    return [values[round(place * (len(values) - 1) / (num - 1))] for place in range(num)]
