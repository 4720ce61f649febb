"""`mergesweep status`: print the progress of a study and what it lacks."""

from rich.console import Console

from orchestrator.cli.ending import command_line, exit_code_of
from orchestrator.cli.exit_codes import DONE
from orchestrator.cli.printing import print_holes
from orchestrator.cli.study_watch import StudyActivity
from orchestrator.costs.budget import budget_lines
from orchestrator.costs.estimate import estimate
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.progress.panel import duration
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.slots import slots_here
from orchestrator.search.words import has_ended, search_lines


def show_activity(activity: StudyActivity, *, console: Console) -> None:
    """Prints the driver that works on a study and its progress; nothing if there is no driver."""
    if activity.is_running:
        say(console, f"at work: {activity.line()}")
    elif activity.submission is not None:
        say(console, f"{activity.submission.id} has ended: {activity.submission.state}")


def show_status(opened: OpenedStudy, *, console: Console, is_running: bool) -> int:
    """Prints counts, holes, the estimated time left and the budget; returns the exit code.

    Args:
        opened: The study.
        console: Where to print.
        is_running: Whether somebody works on it; otherwise the command that goes on is printed.
    """
    state = opened.ledger.state()
    counts = state.counts()
    say(
        console,
        f"study {opened.plan.study.name}: experts {counts.num_experts_done} of "
        f"{counts.num_experts}, merge jobs {counts.num_merges_done} of {counts.num_merges}",
    )
    if opened.plan.study.search is not None:
        for line in search_lines(state.committed):
            say(console, line)
    holes = state.holes()
    if not holes and has_ended(opened.plan):
        say(console, _finished(opened, is_running=is_running))
        return DONE
    models = sizes_by_base(opened.plan)
    left = estimate(state.committed, calibration=opened.calibration, models=models)
    if left.is_anything_left:
        slots = slots_here(opened.plan.study)
        say(console, f"left: about {duration(left.wall_s(num_slots=slots))} on this machine")
    print_holes(holes, console=console)
    for line in budget_lines(opened.plan, keeper=opened.budget_keeper):
        say(console, line)
    if (left.is_anything_left or not has_ended(opened.plan)) and not is_running:
        say(console, f"go on with: {command_line('resume', opened)}")
    return exit_code_of(opened.ledger)


def _finished(opened: OpenedStudy, *, is_running: bool) -> str:
    """Returns a line on a study without holes, whose tables may still be missing."""
    if opened.is_published():
        return "finished: nothing is left to run"
    rest = "finished, but tables, report or MLflow do not show everything yet"
    return rest if is_running else f"{rest}; go on with: {command_line('resume', opened)}"
