"""Spells numbers for the report, and writes the sentences at its top."""

import math
from collections.abc import Sequence

from eval.counts import counted, first_names
from orchestrator.results.means import SettingMean, Spread, ordered_values
from orchestrator.results.multi_task_rows import JOINT_TRAINING
from orchestrator.results.whole import partial_texts, whole
from orchestrator.study.schema import IRRELEVANT, POOL_AXES, RELEVANT

MISSING = "—"
_NBSP = "\u00a0"  # keeps the two numbers on one line
_SAME_POINTS = 0.05  # a smaller difference reads as 0.0
_LARGE_LOSS = 1e4
_MAX_PARTIAL = 5


_POOLS = {
    POOL_AXES[IRRELEVANT]: "experts of tasks outside the group",
    POOL_AXES[RELEVANT]: "experts of the same tasks from other settings",
}


def pool_note(axis: str) -> str:
    """Returns a sentence on the merges of a pool's axis; an empty string for another axis."""
    if axis not in _POOLS:
        return ""
    return (
        "The axis is the number of experts that are merged: those of the group, then "
        f"{_POOLS[axis]}. Only the tasks of the group are scored."
    )


def percent(fraction: float | None) -> str:
    """Returns a fraction in percent with one decimal, without a percent sign."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # adding zero turns -0.0 into 0.0


def loss_text(nats: float | None) -> str:
    """Returns a loss with three decimals; from 10,000 on as a power of ten."""
    if nats is None or not math.isfinite(nats):
        return MISSING
    return f"{nats:.3f}" if nats < _LARGE_LOSS else f"{nats:.2e}"


def percent_spread(spread: Spread, *, signed: bool = False) -> str:
    """Returns mean ± standard deviation in percent, or in points for a difference."""
    text = percent(spread.mean)
    plus = "+" if signed and text != MISSING and not text.startswith("-") else ""
    return _with_std(spread, plus + text, percent(spread.std))


def loss_spread(spread: Spread) -> str:
    """Returns mean ± standard deviation of a loss."""
    return _with_std(spread, loss_text(spread.mean), loss_text(spread.std))


def headline(settings: Sequence[SettingMean]) -> str:
    """Returns a sentence with the best and the worst merge among those that use least.

    Merges that read data, or keep modules for each task, have an advantage over merges that use
    weights alone, so only merges of the same kind are compared; `best_of_other_kinds` names the
    best of each other kind. The measure is the gain in macro accuracy over the base on the same
    groups, or the macro accuracy if the base was not evaluated. Of equal merges the first in the
    tables is named, then the other methods with one. Merges that lack groups are not ranked.
    """
    by_use = _by_use(settings)
    if not by_use and _ranked(settings):
        return "No merge has all of its groups yet, so none is named the best."
    if not by_use:
        return "No merge has a finite accuracy yet."
    use, ranked = next(iter(by_use.items()))
    of = "" if len(by_use) == 1 else f" with {use}"
    best, worst = ranked[-1], ranked[0]
    if best is worst:
        return f"{_where(best)} {_does(best)}."
    if _does(best) == _does(worst):
        return f"All merges{of} are alike: each {_does(best)}."
    return f"Best{of}: {_best(ranked)}. Worst: {_where(worst)} {_does(worst)}."


def summary_lines(settings: Sequence[SettingMean], *, is_short: bool) -> list[str]:
    """Returns the sentences below the headline; those on each method only of a short study."""
    of_methods = method_lines(settings) if is_short else []
    return [*best_of_other_kinds(settings), *of_methods, *partial_lines(settings)]


def best_of_other_kinds(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a sentence for the best merge of every kind that the headline leaves out."""
    _, *others = _by_use(settings).items() or [("", [])]
    return [f"Best with {use}: {_best(ranked)}." for use, ranked in others]


def _best(ranked: Sequence[SettingMean]) -> str:
    """Returns the words for the last of ranked merges, and other methods for which they hold."""
    best = ranked[-1]
    alike = [each.method for each in reversed(ranked) if _does(each) == _does(best)]
    others = [method for method in dict.fromkeys(alike) if method != best.method]
    also = f", as {'does' if len(others) == 1 else 'do'} {', '.join(others)}" if others else ""
    return f"{_where(best)} {_does(best)}{also}"


def _by_use(settings: Sequence[SettingMean]) -> dict[str, list[SettingMean]]:
    """Groups merges by the things that they use, the fewest first, and ranks each group."""
    by_use: dict[str, list[SettingMean]] = {}
    for setting in sorted(_ranked(whole(settings)), key=_use_rank):
        by_use.setdefault(_use(setting), []).append(setting)
    return by_use


def _use(setting: SettingMean) -> str:
    if setting.data_use == JOINT_TRAINING:
        return JOINT_TRAINING
    data = "" if setting.data_use == "none" else f"{setting.data_use} images"
    modules = "per-task modules" if setting.per_task_modules else ""
    return " and ".join(filter(None, (data, modules))) or "weights alone"


def _use_rank(setting: SettingMean) -> tuple[bool, int]:
    """Returns a sort key: merges without modules first, then by the data that they read."""
    uses = ("none", "labelled validation", "unlabelled train", "unlabelled test", "labelled train")
    known = uses.index(setting.data_use) if setting.data_use in uses else len(uses)
    return setting.per_task_modules, known


def method_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a sentence per method about its best and its worst setting with all groups."""
    lines = []
    settings = whole(settings)
    for method in dict.fromkeys(s.method for s in settings):
        # A setting that stands on several axes counts once.
        ranked = _ranked(
            list({s.macro: s for s in reversed(settings) if s.method == method}.values())
        )
        if len(ranked) > 1:
            best, worst = ranked[-1], ranked[0]
            if _does(best) == _does(worst):
                lines.append(f"{method} {_does(best)} at each of its {len(ranked)} settings.")
                continue
            lines.append(
                f"{method} {_does(best)} at {best.setting}, its best setting, "
                f"and {_does(worst)} at {worst.setting}, its worst."
            )
        elif ranked:
            lines.append(f"{method} {_does(ranked[0])} at {ranked[0].setting}.")
        else:
            lines.append(f"{method} has no finite accuracy.")
    return lines


def partial_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a sentence on the merges that are not ranked, as they lack some of the groups."""
    texts = list(dict.fromkeys(partial_texts(settings)))
    if not texts:
        return []
    named = first_names(texts, most=_MAX_PARTIAL)
    return [f"Not ranked, as groups are missing: {named}."]


def not_finite_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a sentence for every setting at which a group's accuracy or loss is not finite."""
    lines = []
    for s in settings:
        for name in ("accuracy", "loss"):
            spread: Spread = getattr(s.macro, name)
            if spread.num_not_finite:
                total = counted(s.num_groups, "group")
                rest = (
                    f"the mean is over the other {spread.num_groups}"
                    if spread.num_groups
                    else "there is no mean"
                )
                lines.append(
                    f"{s.method} at {s.setting}: the {name} is not finite in "
                    f"{spread.num_not_finite} of {total}; {rest}."
                )
    return lines


def lacking_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a sentence for every method that is at some values of an axis only."""
    num_values = len({s.value for s in settings})
    values: dict[str, list[str]] = {}
    for s in settings:
        values.setdefault(s.method, []).append(s.value)
    return [
        f"{method} is at {', '.join(ordered_values(found))} only."
        for method, found in values.items()
        if len(set(found)) < num_values
    ]


def _ranked(settings: Sequence[SettingMean]) -> list[SettingMean]:
    """Returns the merges that have a result, the best last; of equal ones the first comes last."""
    with_gain = [s for s in reversed(settings) if s.macro.gain.num_groups]
    if with_gain:
        return sorted(with_gain, key=lambda s: s.macro.gain.mean)
    known = [s for s in reversed(settings) if s.macro.accuracy.num_groups]
    return sorted(known, key=lambda s: s.macro.accuracy.mean)


def _where(setting: SettingMean) -> str:
    return f"{setting.method} at {setting.setting}"


def _does(setting: SettingMean) -> str:
    gain = setting.macro.gain
    if not gain.num_groups:
        return f"reaches {percent(setting.macro.accuracy.mean)} % accuracy"
    points = 100 * gain.mean
    if abs(points) < _SAME_POINTS:
        return "is level with the base"
    if points > 0:
        return f"gains {points:.1f} points over the base"
    return f"loses {-points:.1f} points against the base"


def _with_std(spread: Spread, mean: str, std: str) -> str:
    if not spread.num_groups:
        return "not finite" if spread.num_not_finite else MISSING
    text = mean if std == MISSING else f"{mean}{_NBSP}±{_NBSP}{std}"
    if not spread.num_not_finite:
        return text
    total = spread.num_groups + spread.num_not_finite
    return f"{text} ({spread.num_groups}{_NBSP}of{_NBSP}{total})"
