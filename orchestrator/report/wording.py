"""How numbers are spelt in the report, and the sentences that it opens with."""

import math
from collections.abc import Sequence

from orchestrator.results.means import SettingMean, Spread

MISSING = "—"
_NBSP = "\u00a0"  # the two numbers stay on one line
_SAME_POINTS = 0.05  # a smaller difference reads as 0.0
_LARGE_LOSS = 1e4


def percent(fraction: float | None) -> str:
    """Return a fraction in percent, one decimal, without the sign."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # adding zero turns -0.0 into 0.0


def loss_text(nats: float | None) -> str:
    """Return a loss with three decimals, in powers of ten where it is huge."""
    if nats is None or not math.isfinite(nats):
        return MISSING
    return f"{nats:.3f}" if nats < _LARGE_LOSS else f"{nats:.2e}"


def percent_spread(spread: Spread, *, signed: bool = False) -> str:
    """Return mean ± standard deviation in percent (points, where it is a difference)."""
    text = percent(spread.mean)
    plus = "+" if signed and text != MISSING and not text.startswith("-") else ""
    return _with_std(spread, plus + text, percent(spread.std))


def loss_spread(spread: Spread) -> str:
    """Return mean ± standard deviation of a loss."""
    return _with_std(spread, loss_text(spread.mean), loss_text(spread.std))


def count(num: int, noun: str) -> str:
    """Return a count and its noun, in the plural where there is not one."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def headline(settings: Sequence[SettingMean]) -> str:
    """Return the best and the worst of the merges that have least besides weights, in a sentence.

    Compared by macro accuracy minus the base's on the same groups; by macro accuracy alone where
    the base was not evaluated. What reads other data, or keeps modules of each task, is not like
    for like: `unlike_lines` has the best of each.
    """
    by_use = _by_use(settings)
    if not by_use:
        return "No merge has a finite accuracy yet."
    use, ranked = next(iter(by_use.items()))
    of = "" if len(by_use) == 1 else " from weights alone" if use == "none" else f" with {use}"
    best, worst = ranked[-1], ranked[0]
    if best is worst:
        return f"{_where(best)} {_does(best)}."
    return f"Best{of}: {_where(best)} {_does(best)}. Worst: {_where(worst)} {_does(worst)}."


def unlike_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Return a sentence for the best merge of every kind that the headline leaves out."""
    _, *others = _by_use(settings).items() or [("", [])]
    return [f"With {use}: {_where(best)} {_does(best)}." for use, (*_, best) in others]


def _by_use(settings: Sequence[SettingMean]) -> dict[str, list[SettingMean]]:
    """Groups merges by what they have besides weights, the least first; each group ranked."""
    by_use: dict[str, list[SettingMean]] = {}
    for setting in sorted(_ranked(settings), key=_has_much):
        by_use.setdefault(setting.use, []).append(setting)
    return by_use


def _has_much(setting: SettingMean) -> tuple[bool, int]:
    """Orders merges by what they have besides weights, the least first."""
    uses = ("none", "unlabelled train", "unlabelled test", "labelled train")
    known = uses.index(setting.data_use) if setting.data_use in uses else len(uses)
    return setting.per_task_modules, known


def method_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Return one sentence per method: what it does at its best and at its worst setting."""
    lines = []
    for method in dict.fromkeys(s.method for s in settings):
        ranked = _ranked([s for s in settings if s.method == method])
        if len(ranked) > 1:
            best, worst = ranked[-1], ranked[0]
            if _does(best) == _does(worst):
                lines.append(f"{method} {_does(best)} at all {len(ranked)} settings.")
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


def not_finite_lines(settings: Sequence[SettingMean]) -> list[str]:
    """Return a sentence for every setting where a group's accuracy or loss is not a number."""
    lines = []
    for s in settings:
        for name in ("accuracy", "loss"):
            spread: Spread = getattr(s.macro, name)
            if spread.num_not_finite:
                total = count(s.num_groups, "group")
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


def _ranked(settings: Sequence[SettingMean]) -> list[SettingMean]:
    with_gain = [s for s in settings if s.macro.gain.num_groups]
    if with_gain:
        return sorted(with_gain, key=lambda s: s.macro.gain.mean)
    known = [s for s in settings if s.macro.accuracy.num_groups]
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
