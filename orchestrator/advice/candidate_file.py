"""Reads candidate values from a file with axes as in a study file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.advice.tried import AXES
from orchestrator.study.finetune import FinetuneAxes
from orchestrator.study.problems import StudyError, StudyProblem, suggest, wrong_value
from orchestrator.study.pydantic_errors import problem_of
from orchestrator.study.reader import parse_yaml, text_of

MAX_CROSSED = 1000
"""Most combinations of a file."""


def read_candidates(path: Path) -> dict[str, list[Any]]:
    """Returns the candidate values by axis.

    Raises:
        StudyError: The file cannot be read or has problems; the error lists every problem.
    """
    values = parse_yaml(text_of(path), source=str(path))
    problems = [
        StudyProblem(
            field=name,
            fault="unknown field",
            remedy="the file has one field, `axes`, with axes as under finetune in a study file",
        )
        for name in values
        if name != "axes"
    ]
    axes: dict[str, list[Any]] = {}
    try:
        axes = FinetuneAxes.model_validate(values.get("axes") or {}).varied()
    except ValidationError as error:
        found = [
            problem_of({**details, "loc": ("finetune", "axes", *details["loc"])})
            for details in error.errors()
        ]
        problems += [replace(each, field=each.field.removeprefix("finetune.")) for each in found]
    problems += [
        wrong_value(
            f"axes.{name}",
            listed,
            remedy="no predictor knows this hyperparameter; "
            + suggest(name, known=AXES, kind="axes"),
        )
        for name, listed in axes.items()
        if name not in AXES
    ]
    if not problems and not axes:
        remedy = f"expected values on at least one of {', '.join(AXES)}"
        problems.append(StudyProblem(field="axes", fault="missing", remedy=remedy))
    num_crossed = 1
    for listed in axes.values():
        num_crossed *= len(listed)
    if num_crossed > MAX_CROSSED:
        remedy = f"expected at most {MAX_CROSSED:,}"
        fault = f"the values have {num_crossed:,} combinations"
        problems.append(StudyProblem(field="axes", fault=fault, remedy=remedy))
    if problems:
        raise StudyError(path, problems=problems)
    return axes
