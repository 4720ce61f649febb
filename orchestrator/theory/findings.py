"""Says in plain sentences what the theory tables show; report and terminal print the same."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eval.counts import counted
from orchestrator.results.schema import MACRO
from orchestrator.theory.answers import Answers
from orchestrator.theory.evidence.bound_findings import bound_texts
from orchestrator.theory.evidence.corollary import corollary_texts
from orchestrator.theory.features import MEASURED
from orchestrator.theory.held_out import PROTOCOLS, RMSE
from orchestrator.theory.predictor_rows import ALL_AXES, LOSS
from orchestrator.theory.ranks import KINDS
from orchestrator.theory.schema import (
    CORRELATIONS,
    DIAGNOSTICS,
    ESTIMATES,
    LAWS,
    NOTES,
    OPERATORS,
    PAIRS,
    PREDICTIONS,
)
from orchestrator.theory.table_rows import Columns, interval_text, signed
from orchestrator.theory.targets import EXCESS

ALPHA = 0.05
"""Corrected p-values below this tell two members of a family apart."""
MANY_ORDERS = 1e-3
"""A coefficient whose least possible p-value is below this ranks enough values."""
_EQUATIONS: Mapping[str, Callable[..., str]] = {
    "constant": lambda a: f"{a:.4g}",
    "line": lambda a, b: f"{a:.4g} {_plus(b)} x",
    "logarithm": lambda a, b: f"{a:.4g} {_plus(b)} ln x",
    "power": lambda a, b: f"{math.exp(a):.4g} x^{b:.3f}",
    "inverse": lambda c, a: f"{c:.4g} {_plus(a)} / x",
    "parabola": lambda a, b, c: f"{a:.4g} {_plus(b)} ln x {_plus(c)} (ln x)^2",
    "floor_and_tail": lambda c, a, b: f"{c:.4g} {_plus(a)} / (x + {b:.3g})",
    "saturating_power": lambda c, a, p: f"{c:.4g} {_plus(a)} x^-{p:.3g}",
}
"""The equation of each form with its parameters."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence with its numbers, under the question that it answers."""

    question: str
    text: str


DIFFERENCES = "Which differences are real?"
SHAPES = "Which law does the loss follow?"
RANKS = "What ranks merges?"
SKILL = "What predicts merges that were left out?"
BOUNDS_HOLD = "Do the theory's formulas rank the merges?"
SPREAD = "Corollary 1: what do methods do to the task vectors?"
TRAINING = "What does the training show that the losses do not?"
MISSING = "What could not be computed"


def findings(answers: Answers) -> Iterator[Finding]:
    """Yields the findings, question by question."""
    for question, texts in (
        (DIFFERENCES, [*_best_methods(answers), *_best_values(answers)]),
        (SHAPES, _law_texts(answers)),
        (RANKS, _rank_texts(answers)),
        (SKILL, _skill_texts(answers)),
        (BOUNDS_HOLD, bound_texts(answers)),
        (SPREAD, corollary_texts(answers.rows(OPERATORS))),
        (TRAINING, (_capital(str(row["text"])) for row in answers.rows(DIAGNOSTICS))),
        (MISSING, (f"{row['topic']}: {row['text']}." for row in answers.rows(NOTES))),
    ):
        for text in texts:
            yield Finding(question=question, text=text)


def _best_values(answers: Answers) -> Iterator[str]:
    families: dict[tuple[str, str], list[Columns]] = {}
    for row in loss_pairs(answers, kind="values"):
        families.setdefault((row["axis"], row["family"]), []).append(row)
    for (axis, method), rows in families.items():
        best = rows[0]["best"]
        apart = [row["other"] for row in rows if is_apart(row)]
        near = [row for row in rows if not is_apart(row)]
        text = f"{method} along {axis}: least loss at {best}"
        if apart:
            text += f", less than at {_listed(apart)}"
        if near:
            text += f"; not told apart from {_listed(list(map(_near, near)))}"
        yield f"{text}. {_capital(counted(rows[0]['num_groups'], 'group'))}."


def _near(row: Columns) -> str:
    """Returns the gap to a member that is not told apart.

    The interval is of this pair alone and may exclude 0, where only the correction for all pairs
    keeps the two together: then the p-value is there too.
    """
    excludes = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
    p_value = f"; p {row['p_holm']:.3f}, corrected for {row['num_pairs']} pairs" if excludes else ""
    return f"{row['other']} ({_gap(row)}{p_value})"


def _gap(row: Columns) -> str:
    return f"{signed(row['difference'])} {interval_text(row)}"


def _best_methods(answers: Answers) -> Iterator[str]:
    families: dict[str, list[Columns]] = {}
    for row in loss_pairs(answers, kind="methods"):
        families.setdefault(row["family"], []).append(row)
    best = [rows[0]["best"] for rows in families.values()]
    alone = [rows[0]["best"] for rows in families.values() if all(map(is_apart, rows))]
    for method in dict.fromkeys(best):
        yield (
            f"{method} has the least loss of all methods at {best.count(method)} of "
            f"{counted(len(families), 'setting')}, and less than every other method, beyond "
            f"chance, at {alone.count(method)}."
        )


def _law_texts(answers: Answers) -> Iterator[str]:
    by_axis: dict[tuple[str, str], list[Columns]] = {}
    for row in answers.rows(LAWS):
        if row["mean"] == MACRO:
            by_axis.setdefault((row["axis"], row["method"]), []).append(row)
    notes = {
        (row["axis"], row["method"], row["quantity"]): row
        for row in answers.rows(ESTIMATES)
        if row["mean"] == MACRO
    }
    for (axis, method), rows in by_axis.items():
        (law,) = [row for row in rows if row["is_preferred"]]
        others = [
            f"{row['form']} {number(row['error_held_out'])}"
            for row in rows
            if row["form"] in ("constant", "line") and row is not law
        ]
        text = f"{method} along x = {axis}: {law_text(law)}; error held out "
        text += f"{number(law['error_held_out'])}"
        text += f" (beside {_listed(others)})" if others else ""
        if law["is_description"]:
            text += f"; {law['num_values']} values describe such a form but do not test it"
        exponent, optimum = (notes[axis, method, name] for name in ("exponent", "optimum"))
        if law["form"] == "power":
            text += f". Exponent {exponent['value']:.3f} {interval_text(exponent)}"
        if optimum["value"] is None:
            yield f"{text}. {_capital(optimum['note'])}."
        else:
            yield f"{text}. Optimum {optimum['value']:.3g} {interval_text(optimum)}."


def _rank_texts(answers: Answers) -> Iterator[str]:
    rows = [
        row
        for row in answers.rows(CORRELATIONS)
        if row["axis"] == ALL_AXES and row["target"] == LOSS and row["spearman"] is not None
    ]
    for kind in KINDS:
        for method in dict.fromkeys(row["method"] for row in rows):
            here = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
            if not here:
                continue
            ranked = sorted(here, key=lambda row: -abs(row["spearman"]))
            spelt = [
                f"{shown_name(row)} {row['spearman']:+z.2f} {interval_text(row)}"
                for row in ranked[:3]
            ]
            few = f" ({here[0]['num_values']} values: p is at least {here[0]['least_p']:.2g})"
            few = few if here[0]["least_p"] > MANY_ORDERS else ""
            yield (
                f"{method}, {kind}: Spearman's coefficient with the merged loss is farthest from 0 "
                f"for {_listed(spelt)}{few}."
            )


def _skill_texts(answers: Answers) -> Iterator[str]:
    rows = [
        row
        for row in answers.rows(PREDICTIONS)
        if row["target"] == EXCESS and row["score"] == RMSE and row["value"] is not None
    ]
    for left_out in PROTOCOLS:
        for method in dict.fromkeys(row["method"] for row in rows):
            here = [row for row in rows if (row["left_out"], row["method"]) == (left_out, method)]
            most = max((row["num_settings"] for row in here), default=0)
            if here:
                everywhere = [row for row in here if row["num_settings"] == most]
                yield f"{method}, {left_out} left out: {_skill(everywhere)}"
            for row in here:
                if row["num_settings"] < most:
                    yield f"{method}, {left_out} left out, {_skill_at_some(row, most=most)}"


def _skill(rows: Sequence[Columns]) -> str:
    baseline = next(row for row in rows if row["predictor"] == row["best_baseline"])
    level = f"{baseline['predictor']} (error {baseline['value']:.3f})"
    better = [row for row in rows if row["is_better"]]
    if better:
        spelt = [f"{shown_name(row)} ({row['value']:.3f})" for row in better]
        verb = "beats" if len(better) == 1 else "beat"
        return (
            f"{_listed(spelt)} {verb} the best baseline, {level}, beyond {_intervals(better[0])}."
        )
    others = [row for row in rows if not row["is_baseline"]]
    if not others:
        return f"the best baseline is {level}; there is no other predictor."
    nearest = min(others, key=lambda row: float(row["value"]))
    return (
        f"no predictor beats the best baseline, {level}, beyond {_intervals(nearest)}; the nearest "
        f"is {shown_name(nearest)} ({nearest['value']:.3f}; difference {_gap(nearest)})."
    )


def _intervals(row: Columns) -> str:
    """Returns the intervals that a difference must be beyond; a single group or task has none."""
    known = [over for over in ("groups", "tasks", "settings") if row[f"{over}_low"] is not None]
    if len(known) == 3:  # noqa: PLR2004 all
        return "all three intervals"
    return f"the interval{'s' if len(known) > 1 else ''} over {_listed(known) or 'nothing'}"


def _skill_at_some(row: Columns, *, most: int) -> str:
    """Returns the record of a predictor that has values at some settings alone."""
    text = f"at the {row['num_settings']} of {most} settings where it has a value: "
    text += f"{shown_name(row)} errs by {row['value']:.3f}, "
    if row["difference"] is None:
        return f"{text}and no baseline can be compared."
    verb = "is" if row["is_better"] else "is not"
    return (
        f"{text}the best baseline there, {row['best_baseline']}, by "
        f"{row['value'] - row['difference']:.3f}: it {verb} better beyond {_intervals(row)} "
        f"({_gap(row)})."
    )


def loss_pairs(answers: Answers, *, kind: str) -> list[Columns]:
    """Returns the comparisons of macro losses of a kind, `values` or `methods`."""
    return [
        row
        for row in answers.rows(PAIRS)
        if (row["kind"], row["mean"], row["quantity"]) == (kind, MACRO, "loss")
    ]


def is_apart(row: Columns) -> bool:
    """Returns whether a comparison tells its two members apart, after the correction."""
    return row["p_holm"] is not None and row["p_holm"] < ALPHA


def shown_name(row: Columns) -> str:
    """Returns a predictor's name, with the word that says that it is no measurement."""
    return str(row["predictor"]) + ("" if row["label"] == MEASURED else " (score)")


def law_text(law: Columns) -> str:
    """Returns a law as an equation."""
    return f"loss = {_EQUATIONS[law['form']](*law['params'])}"


def number(value: float | None) -> str:
    """Returns an error with three decimals."""
    return "unknown" if value is None else f"{value:.3f}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _plus(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.4g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
