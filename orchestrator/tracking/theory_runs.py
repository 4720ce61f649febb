"""Makes the MLflow runs of the theory tables: one per method, and one that holds the tables.

The name of every metric begins with its label, so that no score can be taken for a measurement.
"""

import statistics
from collections.abc import Iterator, Mapping

from orchestrator.record.committed import Committed
from orchestrator.results.schema import MACRO
from orchestrator.theory.answers import Answers
from orchestrator.theory.evidence.corollary import ratios
from orchestrator.theory.features import MEASURED
from orchestrator.theory.findings import findings, is_apart, loss_pairs
from orchestrator.theory.held_out import RMSE, SETTING
from orchestrator.theory.predictor_rows import ALL_AXES, LOSS
from orchestrator.theory.ranks import WITHIN
from orchestrator.theory.schema import (
    CALIBRATIONS,
    CORRELATIONS,
    DIAGNOSTICS,
    ESTIMATES,
    LAWS,
    OPERATORS,
    PREDICTIONS,
)
from orchestrator.theory.stored import table_file, to_parquet
from orchestrator.theory.targets import EXCESS
from orchestrator.tracking.mlflow_run import MAX_METRIC_KEYS, MlflowRun
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.run_fields import (
    common_tags,
    end_ms,
    fitting_artifacts,
    metric_points,
    run_key,
)

KIND = "theory"
_FINDINGS_FILE = "findings.txt"
_NOT_IN_NAMES = str.maketrans(dict.fromkeys("(){}',", ""))
"""Characters that MLflow refuses in the names of metrics."""


def theory_runs(committed: Committed, *, answers: Answers) -> Iterator[MlflowRun]:
    """Yields the MLflow runs of a study's theory tables; none before the first merge.

    Args:
        committed: The study's committed artifacts.
        answers: The theory tables of the same artifacts.
    """
    if not committed.merges:
        return
    last = max(committed.merges.values(), key=lambda manifest: manifest.created_at_s)
    start_ms = min(map(end_ms, committed.merges.values()))
    tags = common_tags(committed.plan, kind=KIND, manifest=last)
    said = "\n".join(f"{each.question} {each.text}" for each in findings(answers))
    tables = {table_file(name): to_parquet(table) for name, table in answers.tables.items()}
    yield MlflowRun(
        key=KIND,
        kind=KIND,
        name="what the results show",
        start_ms=start_ms,
        end_ms=end_ms(last),
        status="FINISHED",
        tags={**tags, NOTE_TAG: said},
        metrics=metric_points(
            dict(list(_diagnostics(answers).items())[:MAX_METRIC_KEYS]),
            step=0,
            timestamp_ms=end_ms(last),
        ),
        artifacts=fitting_artifacts(
            {**tables, _FINDINGS_FILE: f"{said}\n".encode()}, first=_FINDINGS_FILE
        ),
    )
    for method in dict.fromkeys(cell.label for cell in committed.plan.cells):
        scores = dict(list(_scores(answers, method=method).items())[:MAX_METRIC_KEYS])
        yield MlflowRun(
            key=run_key(KIND, method),
            parent_key=KIND,
            kind=KIND,
            name=f"what the results show of {method}",
            start_ms=start_ms,
            end_ms=end_ms(last),
            status="FINISHED",
            tags={
                **tags,
                "method": method,
                NOTE_TAG: f"Laws, best values and rank correlations of {method}.",
                **_laws(answers, method=method),
                **_best_values(answers, method=method),
            },
            metrics=metric_points(scores, step=0, timestamp_ms=end_ms(last)),
        )


def _scores(answers: Answers, *, method: str) -> Mapping[str, float]:
    """Returns the metrics of a method, the most important first."""
    ranks = {
        f"{row['label']}/spearman within groups/{row['predictor']}": row["spearman"]
        for row in answers.rows(CORRELATIONS)
        if (row["axis"], row["target"], row["kind"]) == (ALL_AXES, LOSS, WITHIN)
        and row["method"] == method
    }
    errors = {
        f"{row['label']}/error with a setting left out/{row['predictor']}": row["value"]
        for row in answers.rows(PREDICTIONS)
        if (row["target"], row["left_out"], row["score"]) == (EXCESS, SETTING, RMSE)
        and row["method"] == method
    }
    estimates = {
        f"{row['label']}/{row['quantity']}/{row['axis']}": row["value"]
        for row in answers.rows(ESTIMATES)
        if (row["method"], row["mean"]) == (method, MACRO)
    }
    calibrations = {
        f"{row['label']}/calibration {name}/{row['quantity']}": row[column]
        for row in answers.rows(CALIBRATIONS)
        for name, column in (("slope", "slope"), ("R2", "r_squared"))
        if row["method"] == method
    }
    found = {**ranks, **calibrations, **errors, **estimates, **_spreads(answers, method=method)}
    return {name.replace(",", ""): value for name, value in found.items() if value is not None}


def _diagnostics(answers: Answers) -> Mapping[str, float]:
    """Returns the numbers of the findings on the training, by topic and subject."""
    return {
        f"{row['label']}/{row['topic']}/{row['subject']}".translate(_NOT_IN_NAMES): row["number"]
        for row in answers.rows(DIAGNOSTICS)
        if row["number"] is not None
    }


def _spreads(answers: Answers, *, method: str) -> Mapping[str, float]:
    """Returns the mean ratios of the task vectors' numbers after and before a method."""
    rows = [row for row in answers.rows(OPERATORS) if row["method"] == method]
    found = {name: ratios(rows, name) for name in ("spread", "relative", "moved")}
    return {
        f"{MEASURED}/after over before/{name}": statistics.fmean(numbers)
        for name, numbers in found.items()
        if numbers
    }


def _laws(answers: Answers, *, method: str) -> Mapping[str, str]:
    return {
        f"law along {row['axis']}": row["form"]
        for row in answers.rows(LAWS)
        if row["is_preferred"] and (row["method"], row["mean"]) == (method, MACRO)
    }


def _best_values(answers: Answers, *, method: str) -> Mapping[str, str]:
    """Returns the best value of each axis, with the values from which it is told apart."""
    best: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for row in loss_pairs(answers, kind="values"):
        if row["family"] == method:
            name = f"least loss along {row['axis']}"
            best.setdefault(name, f"{row['best']}")
            others.setdefault(name, []).extend([f"{row['other']}"] if is_apart(row) else [])
    return {
        name: f"{best[name]}, told apart from {', '.join(found) or 'no other'}"
        for name, found in others.items()
    }
