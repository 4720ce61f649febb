"""Prints how far a study is."""

from rich.console import Console

from orchestrator.cli.ending import exit_code_of
from orchestrator.cli.exit_codes import DONE
from orchestrator.cli.printing import (
    print_holes,
)
from orchestrator.cli.verbs.plan import slots_here
from orchestrator.costs.budget_lines import budget_lines
from orchestrator.costs.estimate import estimate
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.progress.panel import duration
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy


def show_status(opened: OpenedStudy, *, console: Console) -> int:
    """Prints how far a study is, and what is missing."""
    state = opened.ledger.state()
    counts = state.counts()
    console.print(
        f"study {opened.plan.study.name}: experts {counts.num_experts_done} of "
        f"{counts.num_experts}, merge jobs {counts.num_merges_done} of {counts.num_merges}",
        highlight=False,
    )
    holes = state.holes()
    if not holes:
        console.print("finished")
        return DONE
    models = sizes_by_base(opened.plan)
    left = estimate(state.committed, calibration=opened.calibration, models=models)
    slots = slots_here(opened.plan.study)
    console.print(f"left: about {duration(left.wall_s(num_slots=slots))} on this machine")
    print_holes(holes, console=console)
    for line in budget_lines(opened.plan, allowance=opened.allowance):
        say(console, line)
    return exit_code_of(opened.ledger)
