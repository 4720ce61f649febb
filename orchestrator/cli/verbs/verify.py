"""`mergesweep verify`: compare everything that a study has in its store with its digests."""

from contextlib import ExitStack

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.cli.leases import holding
from orchestrator.lease.lease import LeaseError
from orchestrator.progress.say import say
from orchestrator.upkeep.verify import verify
from workers.artifacts.layout import Layout
from workers.store.protocol import Store


def verify_study(store: Store, name: str, *, withdraw: bool, console: Console) -> int:
    """Checks every file of a study and prints the broken ones; returns 1 if there are any.

    Args:
        store: The store that has the study.
        name: The study's name.
        withdraw: Withdraw broken artifacts, so that the next run makes them again. This holds the
            study's lease.
        console: Where to print.
    """
    try:
        with ExitStack() as held:
            if withdraw and any(True for _ in store.list(Layout.study(name))):
                held.enter_context(holding(store, [name], console=console))
            report = verify(store, name, withdraw=withdraw)
    except LeaseError as error:
        say(console, f"error: {error}")
        return FAILED
    for warning in report.warnings:
        say(console, f"warning: {warning}")
    for fault in report.faults:
        say(console, str(fault))
    say(
        console,
        f"study {name}: {report.num_checked} artifacts and files, {report.bytes_checked / 1e6:.1f} "
        f"MB read, {len(report.faults) or 'none'} broken",
    )
    return FAILED if report.faults else DONE
