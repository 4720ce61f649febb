"""Prints the plan of a study, after timing samples of it where asked."""

import json
import os
import sys

from rich.console import Console

from orchestrator.cli.printing import (
    base_lines,
    estimate_lines,
    print_plan,
    sharing_line,
)
from orchestrator.costs.budget_lines import budget_lines
from orchestrator.costs.calibration import (
    CALIBRATION_S,
    calibrate,
    calibration_request,
    keep_calibration,
)
from orchestrator.costs.estimate import estimate, estimate_store
from orchestrator.costs.sizes import Sizes, sizes_by_base
from orchestrator.plan.export import plan_file
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.schema import Study


def show_plan(
    opened: OpenedStudy, *, console: Console, as_json: bool, num_slots: int | None
) -> None:
    """Prints the plan of a study; starts nothing."""
    plan, ledger = opened.plan, opened.ledger
    slots = num_slots or slots_here(plan.study)
    committed, models = ledger.committed(), sizes_by_base(plan)
    left = estimate(committed, calibration=opened.calibration, models=models)
    store = estimate_store(plan, sizes=Sizes(committed=committed, models=models), num_slots=slots)
    lines = estimate_lines(left, store=store, num_slots=slots, budget=plan.study.budget)
    about_budget = list(budget_lines(plan, allowance=opened.allowance))
    if not as_json:
        print_plan(plan, ledger=ledger, lines=[*lines, *about_budget], console=console)
        return
    summary = {
        "counts": vars(ledger.state().counts()),
        "bases": base_lines(plan),
        "sharing": sharing_line(plan),
        "estimate": lines,
        "left": {
            "wall_s": left.wall_s(num_slots=slots),
            "gpu_hours": left.usage.gpu_hours,
            "cpu_hours": left.usage.cpu_hours,
            "usd": left.usage.usd(plan.study.budget),
            **vars(store),
        },
        "budget": about_budget,
        "warnings": plan.warnings,
    }
    json.dump({**plan_file(opened.plan).to_json(), "summary": summary}, sys.stdout, indent=1)


def slots_here(study: Study) -> int:
    """Returns how many trials this machine's cores have room for; GPUs are not looked for."""
    return max(1, int((os.cpu_count() or 1) / study.resources.trial.cpu))


def calibrate_here(opened: OpenedStudy, *, console: Console) -> OpenedStudy:
    """Times the study's work on this machine and keeps that; returns the study opened anew.

    Raises:
        CalibrationError: Nothing could be timed.
    """
    request = calibration_request(opened.plan)
    seconds = CALIBRATION_S * len({base.model for base in request.bases.values()})
    say(console, f"calibrating on this machine, for {seconds:.0f} s at most")
    calibration = calibrate(
        request, seconds=seconds, progress=lambda text: say(console, f"  {text}")
    )
    missing = [key for key in request.speed_keys() if key not in calibration.speeds]
    for key in missing:
        say(console, f"  not timed, and left to other figures or a guess: {key}")
    keep_calibration(opened.folder, calibration)
    fresh = open_study(opened.plan.study, text=opened.text, recorded=opened.plan.sources)
    if fresh.calibration is None:
        given = "a GPU" if opened.plan.study.resources.trial.gpu else "no GPU"
        timed = calibration.device_name
        say(console, f"kept, and not used: this is {timed}, resources.trial gives {given}")
    return fresh
