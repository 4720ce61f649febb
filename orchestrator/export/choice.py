"""Finds the model of a study that an export asks for, or says which models there are."""

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eval.counts import counted, first_names
from orchestrator.plan.cells import Cell
from orchestrator.plan.multi_task import MULTI_TASK, MultiTaskCell
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.results.means import Row
from orchestrator.results.study_results import StudyResults
from orchestrator.study.schema import Study
from workers.specs.expert import ExpertSpec

NUM_SHOWN = 8
"""Names or ids in a message."""


class ChoiceError(Exception):
    """Nothing, or more than one model, fits the request; the message says what there is."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A model, as asked for on the command line; None for what was not said."""

    best: str | None = None
    """`macro` or `union`: the merge with the highest accuracy under this mean, or the multi-task
    model if that is the method."""
    merge: str | None = None
    """Id of a merge or of a multi-task model, as the column `merge_id` has it."""
    expert: str | None = None
    """Id of an expert."""
    setting: str | None = None
    method: str | None = None
    """A method's label in the study's tables, or its name; `multi-task` for multi-task models."""
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


@dataclass(frozen=True, kw_only=True)
class ChosenMultiTask:
    """A committed multi-task model, where it stands in the tables."""

    cell: MultiTaskCell
    rows: tuple[Row, ...]
    """The rows of its tasks and of both means."""
    reason: str
    """A sentence that says how it was chosen; empty if it was named."""


Chosen = ChosenMerge | ChosenExpert | ChosenMultiTask
_AnyCell = Cell | MultiTaskCell


def choose(request: Request, *, committed: Committed, results: StudyResults) -> Chosen:
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
    plan = committed.plan
    cells = _fitting_cells(request, plan=plan)
    if request.best is not None:
        return _best(request.best, cells=cells, committed=committed, results=results)
    ids = {_model_id(cell) for cell in cells}
    if len(ids) > 1:
        fitting = [*cells, *(_filtered(request, plan.multi_task) if not request.method else ())]
        raise ChoiceError(
            f"{counted(len(ids), _noun(cells[0]))} fit; {_open_choices(fitting)}; or add --best "
            "for the one with the highest accuracy"
        )
    return _chosen(cells[0], committed=committed, results=results, reason="")


def _expert(expert_id: str, *, committed: Committed, results: StudyResults) -> ChosenExpert:
    spec = committed.plan.experts.get(expert_id)
    if spec is None:
        raise ChoiceError(unknown_choice("expert", expert_id, known=committed.plan.experts))
    if expert_id not in committed.experts:
        raise ChoiceError(_not_made(f"expert {expert_id}", study=committed.plan.study))
    if committed.lacks_weights(expert_id):
        raise ChoiceError(f"expert {expert_id} has no weights: its training diverged")
    if spec.hyperparameters.linearised:
        raise ChoiceError(_linearised(f"expert {expert_id}"))
    rows = (row for row in results.experts.to_pylist() if row["expert_id"] == expert_id)
    row = next(rows)
    return ChosenExpert(spec=spec, setting=row["setting"], row=row)


def _merge(
    merge_id: str, *, committed: Committed, results: StudyResults
) -> ChosenMerge | ChosenMultiTask:
    plan = committed.plan
    models = (cell for cell in plan.multi_task if cell.model.id == merge_id)
    cell = plan.first_cells.get(merge_id) or next(models, None)
    if cell is None:
        raise ChoiceError(unknown_choice("merge", merge_id, known=plan.merges))
    return _chosen(cell, committed=committed, results=results, reason="")


def _fitting_cells(request: Request, *, plan: Plan) -> list[_AnyCell]:
    """Returns the cells of a request's setting, method and group; at least one.

    They are those of merges, or those of multi-task models if these are the method.
    """
    every: list[_AnyCell] = [*plan.cells, *plan.multi_task]
    for what, wanted, names in _filters(request):
        if wanted is not None and not any(wanted in names(cell) for cell in every):
            known = dict.fromkeys(names(cell)[0] for cell in every)
            raise ChoiceError(unknown_choice(what, wanted, known=known))
    is_multi_task = request.method == MULTI_TASK and bool(plan.multi_task)
    kind = MultiTaskCell if is_multi_task else Cell
    cells = [cell for cell in _filtered(request, every) if isinstance(cell, kind)]
    if cells:
        return cells
    if is_multi_task:
        settings = dict.fromkeys(cell.setting.name for cell in plan.multi_task)
        groups = dict.fromkeys(cell.group.name for cell in plan.multi_task)
        raise ChoiceError(
            "no multi-task model has this setting and group; their settings: "
            f"{first_names(settings, most=NUM_SHOWN)}; their groups: "
            f"{first_names(groups, most=NUM_SHOWN)}"
        )
    raise ChoiceError(
        f"no merge has setting {request.setting!r}, method {request.method!r} and group "
        f"{request.group!r} together; groups at this setting have another size"
    )


def _filtered(request: Request, cells: Sequence[_AnyCell]) -> list[_AnyCell]:
    filters = [(wanted, names) for _, wanted, names in _filters(request) if wanted is not None]
    return [cell for cell in cells if all(wanted in names(cell) for wanted, names in filters)]


def _filters(
    request: Request,
) -> list[tuple[str, str | None, Callable[[_AnyCell], Sequence[str]]]]:
    return [
        ("setting", request.setting, lambda cell: [cell.setting.name]),
        ("method", request.method, _labels),
        ("group", request.group, lambda cell: [cell.group.name]),
    ]


def _labels(cell: _AnyCell) -> list[str]:
    """Returns the method's label in tables, then its name."""
    return [MULTI_TASK] if isinstance(cell, MultiTaskCell) else [cell.label, cell.merge.method]


def _model_id(cell: _AnyCell) -> str:
    return cell.model.id if isinstance(cell, MultiTaskCell) else cell.merge.id


def _noun(cell: _AnyCell) -> str:
    return "multi-task model" if isinstance(cell, MultiTaskCell) else "merge"


def _best(
    mean: str, *, cells: Sequence[_AnyCell], committed: Committed, results: StudyResults
) -> ChosenMerge | ChosenMultiTask:
    """Returns the cell with the highest accuracy; the first one in the tables if several have."""
    noun = _noun(cells[0])
    wanted = {(cell.setting.name, _labels(cell)[0], cell.group.name): cell for cell in cells}
    found = [
        (row["accuracy"], wanted[key])
        for row in results.own_rows.to_pylist()
        if row["task"] == mean
        and (key := (row["setting"], row["method"], row["group"])) in wanted
        and row["accuracy"] is not None
        and math.isfinite(row["accuracy"])
    ]
    usable = [(score, cell) for score, cell in found if not _is_linearised(cell)]
    if found and not usable:
        raise ChoiceError(_linearised(f"every {noun} that fits"))
    if not usable:
        status = command_on(committed.plan.study, "status")
        raise ChoiceError(f"no {noun} that fits has a score; {status} shows what is missing")
    _, cell = max(usable, key=lambda each: each[0])
    num_models = len({_model_id(each) for _, each in usable})
    reason = (
        f"It has the highest {mean} accuracy of {counted(num_models, noun)} on the test images "
        "below, so its scores are higher than those on new images would be."
    )
    return _chosen(cell, committed=committed, results=results, reason=reason)


def _is_linearised(cell: _AnyCell) -> bool:
    return isinstance(cell, Cell) and cell.merge.linearised


def _chosen(
    cell: _AnyCell, *, committed: Committed, results: StudyResults, reason: str
) -> ChosenMerge | ChosenMultiTask:
    model_id, study = _model_id(cell), committed.plan.study
    what = f"{_noun(cell)} {model_id}"
    if model_id not in (committed.merges if isinstance(cell, Cell) else committed.bases):
        raise ChoiceError(_not_made(what, study=study))
    if committed.lacks_weights(model_id):
        raise ChoiceError(f"{what} has no weights: its training diverged")
    if isinstance(cell, Cell) and not committed.has_experts_of(cell.merge):
        raise ChoiceError(
            f"an expert of {what} is missing; {command_on(study, 'resume')} makes it again"
        )
    if _is_linearised(cell):
        raise ChoiceError(_linearised(what))
    place = (cell.setting.name, _labels(cell)[0], cell.group.name)
    rows = tuple(
        row
        for row in results.own_rows.to_pylist()
        if (row["setting"], row["method"], row["group"]) == place
    )
    if isinstance(cell, Cell):
        return ChosenMerge(cell=cell, rows=rows, reason=reason)
    if not rows:
        raise ChoiceError(
            f"{what} has no scores beside experts, because one of them is missing or has no "
            f"weights; {command_on(study, 'status')} names it"
        )
    return ChosenMultiTask(cell=cell, rows=rows, reason=reason)


def _open_choices(cells: Sequence[_AnyCell]) -> str:
    """Returns the options that are left to say, with the names that they can have."""
    options = {
        "setting": dict.fromkeys(cell.setting.name for cell in cells),
        "method": dict.fromkeys(_labels(cell)[0] for cell in cells),
        "group": dict.fromkeys(cell.group.name for cell in cells),
    }
    return "; ".join(
        f"say --{option}: {first_names(names, most=NUM_SHOWN)}"
        for option, names in options.items()
        if len(names) > 1
    )


def unknown_choice(what: str, name: str, *, known: Iterable[str]) -> str:
    """Returns the message for a name that a study does not have."""
    return f"the study has no {what} {name!r}; its {what}s: {first_names(known, most=NUM_SHOWN)}"


def command_on(study: Study, verb: str) -> str:
    """Returns a command on a study in its store, as a message shows it."""
    return f"`mergesweep {verb} {study.name} --store {shlex.quote(study.store)}`"


def _not_made(what: str, *, study: Study) -> str:
    return f"{what} is not made yet; {command_on(study, 'resume')} makes it"


def _linearised(what: str) -> str:
    return (
        f"{what} is linearised, f(x; base) + J (weights - base), which is no model that timm can "
        "load"
    )
