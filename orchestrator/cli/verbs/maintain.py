"""What `mergesweep verify`, `gc` and `track` do once their input is checked; the exit codes."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.cli.verbs.run import print_pending
from orchestrator.lease.holder import find_holder
from orchestrator.lease.lease import Lease, LeaseError
from orchestrator.progress.say import say
from orchestrator.record.folder import study_names
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.republish import republish
from orchestrator.run.write_outputs import write_outputs
from orchestrator.upkeep.gc import Collected, CollectError, collect
from orchestrator.upkeep.verify import verify
from workers.artifacts.layout import Layout
from workers.store.opening import supports_conditional_put
from workers.store.protocol import Entry, Store

SECONDS_PER_HOUR = 3600
MAX_KEYS_SHOWN = 20
"""Objects that a listing of garbage names in each category."""


@contextmanager
def _held(store: Store, names: Iterable[str], *, console: Console) -> Iterator[None]:
    """Keeps drivers away from studies; raises `StudyHeldError` if one runs."""
    is_weak = not supports_conditional_put(store)
    with ExitStack() as leases:
        for name in names:
            lease = Lease.acquire(
                store,
                name,
                is_weak=is_weak,
                say=lambda text: say(console, text),
            )
            leases.enter_context(lease)
            lease.start(lambda _: None)
        yield


def verify_study(store: Store, name: str, *, withdraw: bool, console: Console) -> int:
    """Reads everything of a study again, and prints what is broken; the exit code is 1 then."""
    try:
        with ExitStack() as held:
            if withdraw and any(True for _ in store.list(Layout.study(name))):
                held.enter_context(_held(store, [name], console=console))
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


def collect_garbage(store: Store, *, delete: bool, min_age_hours: float, console: Console) -> int:
    """Prints what no study of a store uses, and deletes it if asked to."""
    names = study_names(store)
    try:
        with ExitStack() as held:
            if delete:
                held.enter_context(_held(store, names, console=console))
            collected = collect(
                store,
                min_age_s=min_age_hours * SECONDS_PER_HOUR,
                now_s=time.time(),
                is_held=_began_since(store, names) if delete else lambda _: None,
                dry_run=not delete,
            )
    except (CollectError, LeaseError) as error:
        say(console, f"error: {error}")
        return FAILED
    for line in _collected_lines(collected, deleted=delete):
        say(console, line)
    return DONE


def _began_since(store: Store, names: Collection[str]) -> Callable[[str], str | None]:
    """Returns what says who runs a study, for those that we do not hold ourselves."""

    def holder_of(name: str) -> str | None:
        holder = None if name in names else find_holder(store, name)
        return None if holder is None else str(holder)

    return holder_of


def _collected_lines(collected: Collected, *, deleted: bool) -> Iterator[str]:
    for name, entries in collected.categories():
        if entries:
            yield f"{name}: {len(entries)} objects, {_megabytes(entries)}"
            yield from (f"  {each.key}  {each.size_bytes} B" for each in entries[:MAX_KEYS_SHOWN])
        if len(entries) > MAX_KEYS_SHOWN:
            yield f"  and {len(entries) - MAX_KEYS_SHOWN} more"
    for key in collected.damaged:
        yield f"kept, as it cannot be read: {key}; mergesweep verify of its study says more"
    if collected.num_young:
        yield f"kept, as they are younger than --min-age: {collected.num_young} objects"
    total = f"{len(collected.entries)} objects, {_megabytes(collected.entries)}"
    if not collected.entries:
        yield "nothing to delete"
    else:
        yield f"deleted {total}" if deleted else f"{total} in all; --delete deletes them"


def _megabytes(entries: Iterable[Entry]) -> str:
    return f"{sum(each.size_bytes for each in entries) / 1e6:.1f} MB"


def track_study(opened: OpenedStudy, *, rebuild: bool, console: Console) -> int:
    """Sends MLflow what it lacks of a study, or all of it anew."""
    had_lacked = opened.lacks_in_mlflow()
    published = republish(opened, rebuild=rebuild)
    if had_lacked and not published.num_pending:
        results = StudyResults.of(opened.ledger.committed())
        write_outputs(opened, results=results)  # the report said what MLflow lacked
    say(
        console,
        f"MLflow at {opened.tracking_uri}: {published.num_published} runs written, "
        f"{published.num_unchanged} were there already",
    )
    print_pending(published, opened=opened, console=console)
    return FAILED if published.num_pending else DONE
