"""Says in sentences how the theory's statements compare with measured losses."""

from collections.abc import Iterator, Sequence

from eval.theory.labels import Form
from orchestrator.theory.answers import Answers
from orchestrator.theory.evidence.bound_panel import COMPARED, STABILITY, TERMS, TEST_LOSS
from orchestrator.theory.predictor_rows import ALL_AXES, LOSS
from orchestrator.theory.ranks import WITHIN
from orchestrator.theory.schema import BOUNDS, CALIBRATIONS, CORRELATIONS
from orchestrator.theory.table_rows import Columns, interval_text


def bound_texts(answers: Answers) -> Iterator[str]:
    """Yields a sentence for each method, then one for each axis and each calibration."""
    rows = answers.rows(BOUNDS)
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        yield f"{method}, all settings: {axis_words(of_method)}. " + rank_along(
            answers, axis=ALL_AXES, method=method
        )
        for axis in dict.fromkeys(row["axis"] for row in of_method):
            along = [row for row in of_method if row["axis"] == axis]
            texts = (moving_term(along), rank_along(answers, axis=axis, method=method))
            if any(texts):
                yield f"{method} along {axis}: {' '.join(filter(None, texts))}"
    for row in answers.rows(CALIBRATIONS):
        yield (
            f"{row['method']}: log10 excess = {row['intercept']:.2f} {row['slope']:+z.2f} log10 "
            f"{row['quantity']} ({row['label']}); R^2 {_short(row['r_squared'])}, error "
            f"{row['error']:.2f} decades, with an axis left out {_short(row['error_left_out'])}."
        )


def axis_words(rows: Sequence[Columns]) -> str:
    """Returns the words of the proved form with the reaches, in words for a title."""
    words = dict.fromkeys(row["label"].split(":")[0] for row in rows if row["form"] == Form.PROVED)
    reaches = [row["reach"] for row in rows if row["reach"] is not None]
    paths = [row["path_reach"] for row in rows if row["path_reach"] is not None]
    parts = [
        " and ".join(words) or "no proved form",
        f"reach {_range(reaches)}" if reaches else "reach not measured",
    ]
    if paths:
        parts.append(f"path reach {_range(paths)}")
    return ", ".join(parts)


def moving_term(rows: Sequence[Columns]) -> str:
    """Returns a sentence on the term that changes most between the ends of an axis.

    Args:
        rows: The statements about one method along one axis.
    """
    terms = {
        name: {row["value"]: row["number"] for row in rows if row["quantity"] == name}
        for name in TERMS
    }
    spans = {
        name: max(numbers.values()) - min(numbers.values())
        for name, numbers in terms.items()
        if len(numbers) > 1
    }
    if len(spans) < len(TERMS):
        return ""
    name = max(spans, key=lambda each: spans[each])
    if not spans[name]:
        return ""
    values = list(terms[name])
    first, last = terms[name][values[0]], terms[name][values[-1]]
    words = dict.fromkeys(row["label"] for row in rows if row["quantity"] == name)
    return (
        f"Of the four terms {name} moves most: from {first:.3g} to {last:.3g} nats between "
        f"{values[0]} and {values[-1]} ({', '.join(words)})."
    )


def rank_along(answers: Answers, *, axis: str, method: str) -> str:
    """Returns a sentence on the rank correlations of the formulas with the measured loss."""
    found = {
        row["predictor"]: row
        for row in answers.rows(CORRELATIONS)
        if (row["axis"], row["method"], row["target"], row["kind"]) == (axis, method, LOSS, WITHIN)
        and row["spearman"] is not None
    }
    spelt = [
        f"{quantity} {form} ({row['label'].split(':')[0]}) {row['spearman']:+z.2f} "
        f"{interval_text(row)}"
        for quantity, form in _RANKED
        if (row := found.get(f"{quantity} {form}, measured constants")) is not None
    ]
    if not spelt:
        return ""
    expert = found.get("expert_loss")
    if expert is not None:
        spelt.append(f"the experts' own loss {expert['spearman']:+z.2f} {interval_text(expert)}")
    num = next(iter(found.values()))["num_values"]
    return f"Rank correlation with the measured loss within groups ({num} values): " + (
        "; ".join(spelt) + "."
    )


_RANKED = [
    (TEST_LOSS, Form.PROVED),
    (STABILITY, Form.PROVED),
    *((quantity, Form.STATED) for quantity in COMPARED),
]


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
