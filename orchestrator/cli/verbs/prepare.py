"""`mergesweep prepare`: make a study's bases, heads and images, and nothing else."""

from rich.console import Console

from orchestrator.cli.data_table import print_data
from orchestrator.cli.exit_codes import DONE
from orchestrator.cli.held_session import EndedEarlyError, held_session
from orchestrator.progress.say import say
from orchestrator.record.data_check import check_data
from orchestrator.run.opened import OpenedStudy


def prepare_opened(opened: OpenedStudy, *, console: Console, take_over: bool = False) -> int:
    """Makes the missing bases, heads and images of a study; returns the exit code.

    Args:
        opened: The study.
        console: Where to print.
        take_over: Take the study without checking whether another driver is alive.
    """
    for warning in opened.plan.warnings:
        say(console, f"warning: {warning}")
    name = opened.plan.study.name
    if opened.is_prepared():
        print_data(check_data(opened.ledger.committed()), console=console)
        say(console, f"the base and the images of study {name} are prepared: nothing is left")
        return DONE
    try:
        with held_session(
            opened,
            console=console,
            take_over=take_over,
            publishes=False,
            next_step="run the same command again to go on",
        ) as held:
            if not held.opened.is_prepared():
                held.session().prepare(console)
            held.lease.check()
            held.end_if_stopped()
            committed = held.opened.ledger.committed()
    except EndedEarlyError as end:
        return end.exit_code
    print_data(check_data(committed), console=console)
    say(console, f"the base and the images of study {name} are prepared")
    return DONE
