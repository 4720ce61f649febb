"""Finds the model of a study that an export asks for, or says which models there are."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eval.counts import counted
from orchestrator.plan.cells import Cell
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.results.means import Row
from orchestrator.results.study_results import StudyResults
from workers.specs.expert import ExpertSpec

NUM_SHOWN = 8
"""Names or ids in a message."""


class ChoiceError(Exception):
    """Nothing, or more than one model, fits the request; the message says what there is."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A model, as asked for on the command line; None for what was not said."""

    best: str | None = None
    """`macro` or `union`: the merge with the highest accuracy under this mean."""
    merge: str | None = None
    """Id of a merge."""
    expert: str | None = None
    """Id of an expert."""
    setting: str | None = None
    method: str | None = None
    """A method's label in the study's tables, or its name."""
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChosenMerge:
    """A committed merge, where it stands in the tables."""

    cell: Cell
    rows: tuple[Row, ...]
    """The rows of its tasks, held-out ones included, and of both means."""
    reason: str
    """A sentence that says how it was chosen; empty if it was named."""


@dataclass(frozen=True, kw_only=True)
class ChosenExpert:
    """A committed expert, where it first stands in the tables."""

    spec: ExpertSpec
    setting: str
    row: Row
    """Its row in the experts table."""


def choose(
    request: Request, *, committed: Committed, results: StudyResults
) -> ChosenMerge | ChosenExpert:
    """Returns the model that a request means.

    Raises:
        ChoiceError: No model or several models fit, a name is unknown, or the model is not made
            yet, or cannot be a model of timm.
    """
    if request.expert is not None:
        return _expert(request.expert, committed=committed, results=results)
    if request.merge is not None:
        return _merge(request.merge, committed=committed, results=results)
    if request == Request():
        raise ChoiceError(
            "say which model: --best, --merge ID, --expert ID, or --setting S --method M --group G"
        )
    cells = _fitting_cells(request, plan=committed.plan)
    if request.best is not None:
        return _best(request.best, cells=cells, committed=committed, results=results)
    ids = {cell.merge.id for cell in cells}
    if len(ids) > 1:
        raise ChoiceError(
            f"{len(ids):,} merges fit; {_open_choices(cells)}; or add --best for the one with the "
            "highest accuracy"
        )
    return _chosen(cells[0], committed=committed, results=results, reason="")


def _expert(expert_id: str, *, committed: Committed, results: StudyResults) -> ChosenExpert:
    spec = committed.plan.experts.get(expert_id)
    if spec is None:
        raise ChoiceError(unknown_choice("expert", expert_id, known=committed.plan.experts))
    if expert_id not in committed.experts:
        raise ChoiceError(_not_made("expert", expert_id, study=committed.plan.study.name))
    if committed.lacks_weights(expert_id):
        raise ChoiceError(f"expert {expert_id} has no weights: its training diverged")
    if spec.hyperparameters.linearised:
        raise ChoiceError(_linearised(f"expert {expert_id}"))
    rows = (row for row in results.experts.to_pylist() if row["expert_id"] == expert_id)
    row = next(rows)
    return ChosenExpert(spec=spec, setting=row["setting"], row=row)


def _merge(merge_id: str, *, committed: Committed, results: StudyResults) -> ChosenMerge:
    cell = committed.plan.first_cells.get(merge_id)
    if cell is None:
        raise ChoiceError(unknown_choice("merge", merge_id, known=committed.plan.merges))
    return _chosen(cell, committed=committed, results=results, reason="")


def _fitting_cells(request: Request, *, plan: Plan) -> list[Cell]:
    """Returns the cells of a request's setting, method and group; at least one."""
    cells = list(plan.cells)
    filters: list[tuple[str, str | None, Callable[[Cell], Sequence[str]]]] = [
        ("setting", request.setting, lambda cell: [cell.setting.name]),
        ("method", request.method, lambda cell: [cell.label, cell.merge.method]),
        ("group", request.group, lambda cell: [cell.group.name]),
    ]
    for what, wanted, names in filters:
        if wanted is None:
            continue
        if not any(wanted in names(cell) for cell in plan.cells):
            known = dict.fromkeys(names(cell)[0] for cell in plan.cells)
            raise ChoiceError(unknown_choice(what, wanted, known=known))
        cells = [cell for cell in cells if wanted in names(cell)]
    if not cells:
        raise ChoiceError(
            f"no merge has setting {request.setting!r}, method {request.method!r} and group "
            f"{request.group!r} together; groups at this setting have another size"
        )
    return cells


def _best(
    mean: str, *, cells: Sequence[Cell], committed: Committed, results: StudyResults
) -> ChosenMerge:
    """Returns the cell with the highest accuracy; the first one in the tables if several have."""
    wanted = {(cell.setting.name, cell.label, cell.group.name): cell for cell in cells}
    found = [
        (row["accuracy"], wanted[key])
        for row in results.merges.to_pylist()
        if row["task"] == mean
        and (key := (row["setting"], row["method"], row["group"])) in wanted
        and row["accuracy"] is not None
        and math.isfinite(row["accuracy"])
    ]
    usable = [(score, cell) for score, cell in found if not cell.merge.linearised]
    if not usable:
        name = committed.plan.study.name
        why = _linearised("every merge that fits") if found else "no merge that fits has a score"
        raise ChoiceError(f"{why}; `mergesweep status {name}` shows what is missing")
    _, cell = max(usable, key=lambda each: each[0])
    num_merges = len({each.merge.id for _, each in usable})
    reason = (
        f"It has the highest {mean} accuracy of {counted(num_merges, 'merge')} on the test images "
        "below, so its scores are higher than those on new images would be."
    )
    return _chosen(cell, committed=committed, results=results, reason=reason)


def _chosen(cell: Cell, *, committed: Committed, results: StudyResults, reason: str) -> ChosenMerge:
    merge_id = cell.merge.id
    if merge_id not in committed.merges:
        raise ChoiceError(_not_made("merge", merge_id, study=committed.plan.study.name))
    if not committed.has_experts_of(cell.merge):
        raise ChoiceError(
            f"an expert of merge {merge_id} is missing; "
            f"`mergesweep resume {committed.plan.study.name}` makes it again"
        )
    if cell.merge.linearised:
        raise ChoiceError(_linearised(f"merge {merge_id}"))
    place = (cell.setting.name, cell.label, cell.group.name)
    rows = tuple(
        row
        for row in results.merges.to_pylist()
        if (row["setting"], row["method"], row["group"]) == place
    )
    return ChosenMerge(cell=cell, rows=rows, reason=reason)


def _open_choices(cells: Sequence[Cell]) -> str:
    """Returns the options that are left to say, with the names that they can have."""
    options = {
        "setting": dict.fromkeys(cell.setting.name for cell in cells),
        "method": dict.fromkeys(cell.label for cell in cells),
        "group": dict.fromkeys(cell.group.name for cell in cells),
    }
    return "; ".join(
        f"say --{option}: {_listed(names)}" for option, names in options.items() if len(names) > 1
    )


def unknown_choice(what: str, name: str, *, known: Iterable[str]) -> str:
    """Returns the message for a name that a study does not have."""
    known = list(known)
    return f"the study has no {what} {name!r}; its {what}s: {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NUM_SHOWN:,} more" if len(names) > NUM_SHOWN else ""
    return f"{', '.join(names[:NUM_SHOWN])}{more}"


def _not_made(what: str, artifact_id: str, *, study: str) -> str:
    return f"{what} {artifact_id} is not made yet; `mergesweep resume {study}` makes it"


def _linearised(what: str) -> str:
    return (
        f"{what} is linearised, f(x; base) + J (weights - base), which is no model that timm can "
        "load"
    )
