"""`mergesweep plan`: print a study's plan and its cost; with --calibrate, time samples first."""

import json
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from eval.counts import counted
from orchestrator.cli.data_table import print_data
from orchestrator.costs.budget import budget_lines
from orchestrator.costs.calibration import (
    CALIBRATION_S,
    calibrate,
    calibration_request,
    store_calibration,
)
from orchestrator.costs.estimate import Estimate, StoreEstimate, estimate, estimate_store
from orchestrator.costs.gpu_packing import packing_line
from orchestrator.costs.measuring import MeasuringCost, measuring_cost
from orchestrator.costs.sizes import Sizes, sizes_by_base
from orchestrator.costs.usage import GIGABYTE
from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import DEFAULT_AXIS
from orchestrator.progress.panel import duration
from orchestrator.progress.say import print_table, say
from orchestrator.record.data_check import DataCheck, check_data
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import DESIGN_AXES
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.slots import slots_here
from orchestrator.search.words import search_plan_lines
from orchestrator.study.resources import Budget
from workers.specs.merge import MergeSpec, num_merges_tried
from workers.store.opening import is_surely_read_only

LEAST_AMOUNT = 0.01
"""Smaller numbers of hours and dollars would read as 0."""


def show_plan(
    opened: OpenedStudy, *, console: Console, as_json: bool, num_slots: int | None
) -> None:
    """Prints the plan of a study, as tables and lines or as JSON."""
    plan, ledger = opened.plan, opened.ledger
    slots = num_slots or slots_here(plan.study)
    committed, models = ledger.committed(), sizes_by_base(plan)
    left = estimate(committed, calibration=opened.calibration, models=models)
    store = estimate_store(plan, sizes=Sizes(committed=committed, models=models), num_slots=slots)
    lines = estimate_lines(left, store=store, num_slots=slots, budget=plan.study.budget)
    if packing := packing_line(plan.study, calibration=opened.calibration):
        lines = [packing, *lines]
    measuring = measuring_cost(committed, calibration=opened.calibration, models=models)
    lines = [*lines, *measuring_lines(measuring)]
    about_budget = list(budget_lines(plan, keeper=opened.budget_keeper))
    data = check_data(committed)
    warnings = [*plan.warnings, *_store_warnings(opened.store_url)]
    if not as_json:
        for warning in warnings:
            say(console, f"warning: {warning}")
        lines = [*lines, *about_budget]
        print_plan(plan, ledger=ledger, data=data, lines=lines, console=console)
        return
    summary = {
        "counts": vars(ledger.state().counts()),
        "bases": base_lines(plan),
        "tuning": tuning_lines(plan),
        "sharing": prefix_sharing_line(plan),
        "estimate": lines,
        "left": {
            "wall_s": left.wall_s(num_slots=slots),
            "gpu_hours": left.usage.gpu_hours,
            "cpu_hours": left.usage.cpu_hours,
            "usd": left.usage.usd(plan.study.budget),
            **vars(store),
        },
        "budget": about_budget,
        "data": data.to_json(),
        "warnings": warnings,
    }
    json.dump({**plan_file(opened.plan).to_json(), "summary": summary}, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _store_warnings(url: str) -> Iterator[str]:
    if is_surely_read_only(url):
        yield f"this user cannot write to the store {url}, so a run of the study would be refused"


def calibrate_here(opened: OpenedStudy, *, console: Console) -> OpenedStudy:
    """Times samples of the study's work on this machine and stores the calibration.

    Returns:
        The study, reopened with the calibration.

    Raises:
        CalibrationError: Nothing could be timed.
    """
    request = calibration_request(opened.plan)
    seconds = CALIBRATION_S * len({base.model for base in request.bases.values()})
    say(console, f"calibrating on this machine, for {seconds:.0f} s at most")
    calibration = calibrate(
        request, seconds=seconds, progress=lambda text: say(console, f"  {text}")
    )
    for key in request.speed_keys():
        if key not in calibration.speeds:
            say(console, f"  not timed, so it stays an estimate: {key}")
    store_calibration(opened.folder, calibration)
    fresh = opened.reopened()
    if fresh.calibration is None:
        given = "a GPU" if opened.plan.study.resources.trial.gpu else "no GPU"
        timed = calibration.device_name
        say(
            console,
            f"the calibration is stored but not used: this machine has {timed}, and "
            f"resources.trial gives a worker {given}",
        )
    return fresh


def print_plan(
    plan: Plan, *, ledger: Ledger, data: DataCheck, lines: Sequence[str], console: Console
) -> None:
    """Prints the tasks' data, planned and existing artifacts, the savings, and further lines."""
    counts = ledger.state().counts()
    parts = (
        counted(len(plan.study.task_names), "task"),
        counted(len(plan.all_settings), "setting"),
        counted(len(plan.groups), "group"),
        counted(len(plan.study.merge), "method"),
    )
    say(console, f"study {plan.study.name}: {', '.join(parts)}")
    print_data(data, console=console)
    table = Table("", "planned", "already in the store")
    left = ledger.committed().missing_trainings
    missing = sum(training.output_kind == "expert" for training in left)
    models, committed = plan.bases.multi_task_ids, ledger.committed().bases.keys()
    if len(bases := plan.bases.by_id.keys() - models) > 1:
        table.add_row("bases", str(len(bases)), str(len(committed - models)))
    if models:
        table.add_row("multi-task models", str(len(models)), str(len(committed & models)))
    table.add_row("trials", str(len(plan.trials)), str(len(plan.trials) - missing))
    table.add_row("experts", str(counts.num_experts), str(counts.num_experts_done))
    table.add_row("merge jobs", str(counts.num_merges), str(counts.num_merges_done))
    print_table(console, table)
    about = (*axis_lines(plan), *base_lines(plan), *tuning_lines(plan), *search_plan_lines(plan))
    for line in (*about, prefix_sharing_line(plan), *lines):
        say(console, line)


def axis_lines(plan: Plan) -> Sequence[str]:
    """Returns a line for each axis, with its values as in the study file."""
    values: dict[str, list[str]] = {}
    for setting in plan.settings:
        values.setdefault(setting.axis, []).append(setting.value)
    return [
        f"axis {axis}: {', '.join(each)}"
        for axis, each in values.items()
        if axis not in (*DESIGN_AXES, DEFAULT_AXIS)
    ]


def base_lines(plan: Plan) -> Sequence[str]:
    """Returns lines on pretraining and on multi-task models; none for a study without them."""
    bases = plan.bases
    parts = [("pretraining", "base", bases.trainings), ("multi-task", "model", bases.multi_task)]
    lines = []
    for what, noun, trainings in parts:
        if trainings:
            outputs = counted(sum(len(each.snapshots) for each in trainings), noun)
            of = counted(len(trainings), "training")
            steps = counted(sum(each.num_steps for each in trainings), "step")
            lines.append(f"{what}: {outputs}, snapshots of {of} with {steps}")
    return lines


def tuning_lines(plan: Plan) -> Sequence[str]:
    """Returns a line for each method that chooses parameters or steps on validation images."""
    first: dict[str, MergeSpec] = {}
    for cell in plan.all_cells:
        if cell.merge.chooses:
            first.setdefault(cell.label, cell.merge)
    lines = []
    for label, spec in first.items():
        if spec.snapshots is not None:
            lines.append(_steps_line(label, spec=spec, most=plan.study.tasks.max_validation))
            continue
        assert spec.tuning is not None, "it chooses steps or parameters"
        if spec.tuning.over is not None:
            num = counted(len(plan.choosing_merges[spec.tuning.over]), "merge")
            lines.append(f"tuning of {label}: by the mean scores of {num} that try the same values")
            continue
        passes = counted(len(spec.tuning.points()), "value")
        merges = counted(num_merges_tried(spec), "further merge")
        most = plan.study.tasks.max_validation
        lines.append(
            f"tuning of {label}: {passes}, each on at most {most} validation images per task, and "
            f"{merges} for each merge"
        )
    return lines


def _steps_line(label: str, *, spec: MergeSpec, most: int | None) -> str:
    assert spec.snapshots is not None
    counts = ", ".join(map(str, spec.snapshots.counts))
    merges = counted(num_merges_tried(spec), "further merge")
    about = "" if spec.snapshots.rule == "stopped" else "about "
    points = "" if spec.tuning is None else f" with {counted(len(spec.tuning.points()), 'value')}"
    return (
        f"steps of {label}: each task's among {counts}{points}, on at most {most} validation "
        f"images per task, with {about}{merges} for each merge and no training"
    )


def prefix_sharing_line(plan: Plan) -> str:
    """Returns the steps that prefix sharing saves, and the merge jobs for all table entries."""
    num, unshared = plan.num_steps, plan.num_steps_unshared
    steps = counted(num, "optimizer step")
    jobs = counted(len(plan.merges), "merge job")
    merges = f"{jobs} for {counted(len(plan.all_cells), 'table entry', plural='table entries')}"
    if num == unshared:
        return f"{steps}, {merges}"
    saved = f"{1 - num / unshared:.0%} saved"
    return f"prefix sharing: {steps} instead of {unshared:,} ({saved}), {merges}"


def estimate_lines(
    estimate: Estimate, *, store: StoreEstimate, num_slots: int, budget: Budget
) -> Sequence[str]:
    """Returns the estimated rest in time and money, its basis, and the bytes in the store."""
    bases, experts = _size(store.base_bytes), _size(store.expert_bytes)
    images, in_flight = _size(store.data_bytes), _size(store.checkpoint_bytes)
    merges = "" if store.merge_bytes == 0 else f", merges {_size(store.merge_bytes)}"
    in_store = f"in the store: experts {experts}, bases {bases}, images {images}{merges}"
    if not estimate.is_anything_left:
        return ("nothing is left to run", in_store)
    wall = duration(estimate.wall_s(num_slots=num_slots))
    trials, merging = duration(estimate.train_s), duration(estimate.merge_s)
    usage = estimate.usage
    workers = "1 worker" if num_slots == 1 else f"{num_slots:,} workers at once"
    takes = [f"{_amount(usage.cpu_hours)} CPU-core-hours"]
    if usage.gpu_s:
        takes.insert(0, f"{_amount(usage.gpu_hours)} GPU-hours")
    if cost := usage.usd(budget):
        takes.append(f"{_amount(cost)} USD")
    return (
        f"left: about {wall} on {workers}: {', '.join(takes)}",
        f"of one worker's time: trials {trials}, merge jobs {merging}",
        f"times are {estimate.sources}",
        in_store,
        f"in the store while trials run, in addition: checkpoints {in_flight}",
    )


def measuring_lines(cost: MeasuringCost | None) -> Sequence[str]:
    """Returns the line on what `measure` costs beyond the study; none if it measures nothing."""
    if cost is None:
        return ()
    plain, all_of_it = (
        f"about {duration(seconds)} ({seconds / cost.study_s:.0%} of the study)"
        for seconds in (cost.plain_s, cost.curvature_s)
    )
    measure = f"mergesweep measure, beyond the study: {plain} of one worker's time"
    return (f"{measure}, with --curvature {all_of_it}",)


def _amount(number: float) -> str:
    return f"{number:,.2f}" if number >= LEAST_AMOUNT else f"less than {LEAST_AMOUNT}"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "of unknown size (timm does not know the model, or could not be asked)"
    if num_bytes < GIGABYTE / 10:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{num_bytes / GIGABYTE:,.2f} GB"
