"""`mergesweep track`: send MLflow the runs that it lacks of a study, from the store alone."""

from rich.console import Console

from eval.counts import counted
from orchestrator.cli.ending import print_pending
from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.progress.countdown import counting_down
from orchestrator.progress.say import say
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.republish import republish
from orchestrator.run.write_outputs import write_outputs


def track_study(opened: OpenedStudy, *, rebuild: bool, console: Console) -> int:
    """Sends MLflow the runs of a study that it lacks; returns the exit code.

    Args:
        opened: The study.
        rebuild: Delete the study's runs in MLflow first, and send all of them.
        console: Where to print.
    """
    was_incomplete = opened.missing_in_mlflow()
    with counting_down(console, work="sending MLflow the runs that it lacks") as show_pending:
        published = republish(opened, rebuild=rebuild, show_pending=show_pending)
    if was_incomplete and not published.num_pending:
        # The stored report still says that MLflow lacks runs.
        write_outputs(opened, results=StudyResults.of(opened.ledger.committed()))
    say(
        console,
        f"MLflow at {opened.tracking_uri}: {counted(published.num_published, 'run')} written, "
        f"{counted(published.num_unchanged, 'run')} there already",
    )
    print_pending(published, opened=opened, console=console)
    return FAILED if published.num_pending else DONE
