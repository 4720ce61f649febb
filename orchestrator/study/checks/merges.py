"""Checks the merging methods of a study: their parameters, and that no two are the same."""

from collections.abc import Iterator, Mapping

from merge.errors import ParameterErrors, Problem
from orchestrator.study.method_labels import method_labels
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import STEP_RULES, STEPS, Merge


def check_merges(merges: Mapping[int, Merge]) -> Iterator[StudyProblem]:
    """Yields wrong methods and parameters, repeated merges and repeated labels.

    Args:
        merges: The study's valid entries, by position in the file.
    """
    labels = method_labels(list(merges.values()))
    index_of_label: dict[str, int] = {}
    index_of_merge: dict[object, int] = {}
    for (index, method), label in zip(merges.items(), labels, strict=True):
        field = f"merge[{index}]"
        same_label = index_of_label.setdefault(label, index)
        try:
            params = method.parsed_params()
        except ParameterErrors as error:
            for problem in error.problems:
                yield _parameter_problem(field, method=method, problem=problem)
            continue
        tuned = (repr(sorted(method.tuned.items())), method.tuned_by, method.tuned_over)
        chosen = (method.surgery, method.step_rule, tuned)
        merge = (params, method.batch_norm, method.recalibration_images, chosen)
        same_merge = index_of_merge.setdefault(merge, index)
        if same_merge != index:
            yield StudyProblem(
                field=field,
                fault=f"this entry is the same merge as merge[{same_merge}]",
                remedy="leave one of them out, or give them different parameters",
            )
        elif same_label != index:
            yield StudyProblem(
                field=field,
                fault=f"the label {label!r} is that of merge[{same_label}]",
                remedy="give one of them another `label`",
            )


def _parameter_problem(field: str, *, method: Merge, problem: Problem) -> StudyProblem:
    field = f"{field}.{problem.field}"
    if problem.field == STEPS:
        own = method.card.params.__dataclass_fields__
        number = f", or {problem.allowed} for the method itself" if STEPS in own else ""
        rules = f"expected {' or '.join(STEP_RULES)}, for each task's steps{number}"
        return wrong_value(field, problem.value, remedy=rules)
    known = method.card.params.__dataclass_fields__ if problem.field != "method" else ()
    if problem.field != "method" and problem.field not in known:
        fault = f"unknown parameter of {method.name}"
        return StudyProblem(field=field, fault=fault, remedy=problem.allowed)
    return wrong_value(field, problem.value, remedy=f"expected {problem.allowed}")
