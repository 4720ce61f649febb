"""`mergesweep verify`: compare everything that a study has in its store with its digests."""

from contextlib import ExitStack

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.cli.leases import holding
from orchestrator.lease.lease import LeaseError
from orchestrator.progress.say import say
from orchestrator.upkeep.verify import verify
from workers.artifacts.layout import Layout
from workers.store.protocol import Store, StoreCredentialsError, StoreNotWritableError


def verify_study(store: Store, name: str, *, withdraw: bool, console: Console) -> int:
    """Checks every file of a study and prints the broken ones; returns 1 if there are any.

    Args:
        store: The store that has the study.
        name: The study's name.
        withdraw: Withdraw broken artifacts, so that the next run makes them again. This holds the
            study's lease. In a store that this user cannot write to, they are only reported.
        console: Where to print.
    """
    try:
        with ExitStack() as held:
            withdraws = withdraw and _can_withdraw(store, name, held=held, console=console)
            report = verify(store, name, withdraw=withdraws)
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


def _can_withdraw(store: Store, name: str, *, held: ExitStack, console: Console) -> bool:
    """Takes a study's lease; returns False, with a warning, if the store cannot be written."""
    if not any(True for _ in store.list(Layout.study(name))):
        return True
    try:
        held.enter_context(holding(store, [name], console=console))
    except (StoreNotWritableError, StoreCredentialsError) as error:
        say(console, f"warning: faults are only reported, and nothing is withdrawn: {error}")
        return False
    return True
