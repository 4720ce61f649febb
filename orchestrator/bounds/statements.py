"""Says in sentences what the theory states about a study's merges, each number with its word."""

import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

from eval.theory.labels import Reason, Word
from orchestrator.bounds.merge_bounds import MergeBounds, bounds_of
from orchestrator.bounds.merge_setting import merge_setting_of
from orchestrator.plan.plan import Plan
from orchestrator.record.task_constants import MeasuredTasks
from workers.specs.merge import MergeSpec

STRENGTH = (Word.OUTSIDE, Word.SCORE, Word.BOUND)
"""From the weakest word to the strongest."""


def bounds_by_row(
    plan: Plan,
    *,
    measured: MeasuredTasks,
    base_id: str,
    augment: str,
    diverged: Collection[str],
) -> dict[str, list[MergeBounds]]:
    """Returns the statements about the merges of each setting and method, by both names.

    Settings with the same merges have one row, under the names of all.

    Methods whose coefficients are not known before they merge have none, nor have merges of
    experts that start from another base or see other augmentation.

    Args:
        plan: The study's plan.
        measured: The constants of one base under one augmentation.
        base_id: The base's id.
        augment: The augmentation.
        diverged: Ids of the experts that diverged.
    """
    merges: dict[tuple[str, str], dict[str, MergeBounds]] = {}
    for cell in plan.cells:
        merge = cell.merge
        if not _is_covered(merge, measured=measured, base_id=base_id, augment=augment):
            continue
        setting = merge_setting_of(merge, plan=plan)
        if setting is not None:
            has_diverged = any(expert.id in diverged for expert in merge.experts)
            bounds = bounds_of(merge, setting, measured=measured, has_diverged=has_diverged)
            merges.setdefault((cell.label, cell.setting.name), {})[merge.id] = bounds
    settings: dict[tuple[str, ...], list[str]] = {}
    for (label, name), found in merges.items():
        settings.setdefault((label, *found), []).append(name)
    return {
        f"{first_of(names)}, {label}": list(merges[label, names[0]].values())
        for (label, *_), names in settings.items()
    }


def first_of(settings: Sequence[str]) -> str:
    """Returns the names of settings that have the same experts, the first before the others.

    The default values of all axes make such settings.
    """
    if len(settings) == 1:
        return settings[0]
    return f"{settings[0]} (the same as {', '.join(settings[1:])})"


def statement_lines(rows: Mapping[str, Sequence[MergeBounds]]) -> Iterator[str]:
    """Yields a line for each setting and method, and one for each reason against a bound.

    Numbers are means over the merges; the word is the weakest one of them.
    """
    reasons: dict[Reason, None] = {}
    for row, merges in rows.items():
        word = min((each.stability.word for each in merges), key=STRENGTH.index)
        reaches = [each.reach.worst for each in merges if each.reach.worst is not None]
        reach = f", reach {max(reaches):.3g}" if reaches and not math.isnan(max(reaches)) else ""
        losses = _mean(each.training_loss.value for each in merges)
        loss = (
            ""
            if math.isnan(losses)
            else f"; training loss {losses:.3g}, excess risk "
            f"{_mean(each.excess.value for each in merges):.3g}"
        )
        agreements = [each.agreement for each in merges]
        yield (
            f"{row}: stability {_mean(each.stability.value for each in merges):.3g}{loss} "
            f"(proved form: {word}{reach}); stability "
            f"{_mean(each.stated_stability.value for each in merges):.3g} (stated form: never a "
            f"bound); agreement of the gradients {_known(agreements)}, "
            f"chi-square of the surrogate weights {_mean(each.chi_square for each in merges):.3g}"
        )
        reasons.update(dict.fromkeys(r for each in merges for r in each.stability.reasons))
    yield from reasons


def _is_covered(merge: MergeSpec, *, measured: MeasuredTasks, base_id: str, augment: str) -> bool:
    return all(
        expert.base_id == base_id
        and expert.hyperparameters.augment == augment
        and expert.hyperparameters.moves_all_weights
        and expert.task in measured.tasks
        for expert in merge.experts
    )


def _known(values: Sequence[float]) -> str:
    """Returns the mean of the values that are known, with their number if others are not."""
    known = [each for each in values if not math.isnan(each)]
    if not known:
        return "unknown, as no squared gradient stands out of its noise"
    rest = "" if len(known) == len(values) else f" (of {len(known)} of {len(values)} merges)"
    return f"{statistics.fmean(known):.3g}{rest}"


def _mean(values: Iterator[float]) -> float:
    return statistics.fmean(values)
