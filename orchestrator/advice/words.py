"""Says in plain sentences what the advice on a method rests on and amounts to."""

import math
from collections.abc import Iterator, Sequence

from eval.counts import counted
from orchestrator.advice.advice import MethodAdvice
from orchestrator.advice.predictors import CONSTANT, Record
from orchestrator.advice.ranking import Candidate, Experiment, Ranking
from orchestrator.advice.task_steps import GainOnTest, StepsAdvice, TaskSteps
from orchestrator.theory.features import MEASURED

LEAST_GAIN = 0.0005
"""Smaller expected gains, in nats per image, are printed as less than 0.001."""


def record_sentences(record: Record) -> Iterator[str]:
    """Yields the sentences on a method's predictor and whether it supports a ranking."""
    word = "" if record.label == MEASURED else f" ({record.label})"
    own, constant, interval = record.score, record.constant, record.interval
    yield (
        f"Predictor: {record.predictor}{word}. On settings that were left out "
        f"({record.num_settings} settings, {counted(record.num_groups, 'group')}) it errs by "
        f"{own.error:.3f}, a {CONSTANT} by {constant.error:.3f}; difference "
        f"{record.difference:+z.3f} [{interval.low:+z.3f}, {interval.high:+z.3f} over "
        f"{interval.over}]. Choosing by it costs {own.regret:.3f} more than the best setting, "
        f"choosing at random {constant.regret:.3f}."
    )
    others = ", ".join(f"{name} {each.error:.3f}" for name, each in record.after_training.items())
    yield f"Known only after training, so of no use for an untried setting: {others}."
    if not record.is_supported:
        yield (
            "No better than the baseline here: its error or its choice is not better than "
            "that of a constant beyond all its intervals. Nothing is ranked."
        )
    elif record.num_groups == 1:
        yield (
            "One group gives no interval over groups: without any effect, up to a third of "
            "simulated studies with one group were ranked all the same."
        )


def ranking_sentences(ranking: Ranking) -> Iterator[str]:
    """Yields the sentences below the table of a method's candidates."""
    shown = ranking.candidates
    if any(each.is_beyond for each in shown):
        yield "* a value lies outside those tried."
    same = [each for each in shown[1:] if not each.is_apart]
    if same:
        number = "None of the others is" if len(same) == len(shown) - 1 else "Not all others are"
        yield (
            f"{number} told apart from the first (80 % interval of the difference): their order is "
            "not known."
        )
    if shown[0].against_best >= 0:
        yield "No candidate is predicted to have less loss than the best setting so far."
    yield experiment_sentence(ranking.experiment)


def experiment_sentence(experiment: Experiment | None) -> str:
    """Returns the sentence on the most informative experiment."""
    if experiment is None:
        return "No experiment on this grid is expected to lower the least loss."
    steps = ", ".join(f"{each.point.steps:,}" for each in experiment.snapshots)
    snapshots = f", with its snapshots at {steps} for no further step" if steps else ""
    gain = "less than 0.001" if experiment.gain < LEAST_GAIN else f"{experiment.gain:.3f}"
    return (
        f"Most for its cost, merges included: {experiment.candidate.text}{snapshots}. It is "
        f"expected to lower the least loss by {gain} for {experiment.candidate.new_steps:,} steps."
    )


def steps_sentences(advice: StepsAdvice) -> Iterator[str]:
    """Yields the sentences on the steps of each task; none where nothing was or can be chosen."""
    if advice.chosen:
        yield (
            "A gain is the loss with the best common number of steps minus the loss with those of "
            "each task, in nats. Validation images chose both: the part of a gain that test images "
            "do not show is the optimism of the choice."
        )
        gains = [each.test_gain for each in advice.chosen]
        known = [each for each in gains if each is not None]
        if any(map(_is_apart, known)):
            yield "* told apart from 0 by its interval, the wider of those over groups and tasks."
        elif known:
            yield (
                "No gain on test images is told apart from 0 by its interval, the wider of those "
                "over groups and tasks."
            )
        if None in gains:
            yield "-: the tables lack merges with common steps: no gain on test images is known."
    for each in advice.chosen:
        tasks = ", ".join(f"{task.task} {range_text(task)}" for task in each.tasks)
        yield (
            f"{each.method} at {each.setting}, {counted(each.num_groups, 'group')} "
            f"(median; range): {tasks}."
        )
    if advice.missing:
        yield f"No steps can be chosen: {advice.missing}."
    if advice.entry is not None:
        yield (
            "The study has snapshots and validation images: merges can choose the steps of each "
            "task among them, which trains nothing."
        )


def gain_text(gain: GainOnTest | None) -> str:
    """Returns a gain on test images with its interval, and a mark if that excludes 0."""
    if gain is None:
        return "-"
    low, high = gain.interval.low, gain.interval.high
    if math.isnan(low):
        return f"{gain.mean:+z.3f} (no interval)"
    return f"{gain.mean:+z.3f} [{low:+z.3f}, {high:+z.3f}]{' *' if _is_apart(gain) else ''}"


def _is_apart(gain: GainOnTest) -> bool:
    return gain.interval.low > 0 or gain.interval.high < 0


def range_text(steps: TaskSteps) -> str:
    """Returns the median of some numbers of steps, and their range if they differ."""
    if steps.least == steps.most:
        return f"{steps.middle:,}"
    return f"{steps.middle:,} ({steps.least:,}-{steps.most:,})"


def comments(advice: Sequence[MethodAdvice], *, name: str) -> Iterator[str]:
    """Yields the lines at the head of the study file that tests the advice."""
    yield f"Tests the advice of `mergesweep advise {name}`. Predicted mean macro loss (95 %):"
    for each in advice:
        if each.ranking is not None:
            first = each.ranking.candidates[0]
            yield (
                f"{each.method}: {first.text}: {interval_text(first)}; "
                f"best so far {each.ranking.best}: {each.ranking.best_loss:.3f}"
            )


def interval_text(candidate: Candidate) -> str:
    """Returns a predicted loss with its 95 % interval."""
    return f"{candidate.loss:.3f} [{candidate.low:.3f}, {candidate.high:.3f}]"
