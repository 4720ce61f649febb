"""`mergesweep gc`: list, and delete on request, the objects that no study of a store uses."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

from rich.console import Console

from eval.counts import counted
from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.cli.leases import holding
from orchestrator.cli.options import BadInputError
from orchestrator.lease.holder import find_holder
from orchestrator.lease.lease import LeaseError
from orchestrator.progress.say import say
from orchestrator.record.folder import study_names
from orchestrator.upkeep.gc import Collected, CollectError, collect
from workers.store.protocol import Entry, Store

SECONDS_PER_HOUR = 3600
MAX_KEYS_SHOWN = 20
"""Objects that are listed by key in each category; all are counted."""


def collect_garbage(store: Store, *, delete: bool, min_age_hours: float, console: Console) -> int:
    """Prints the unused objects of a store, and deletes them if asked to; returns the exit code.

    Args:
        store: The store.
        delete: Delete the objects. This holds the leases of all studies.
        min_age_hours: Objects that were modified later than this are kept.
        console: Where to print.

    Raises:
        BadInputError: The store is empty, or there is none.
    """
    names = study_names(store)
    if not names and next(iter(store.list("")), None) is None:
        raise BadInputError(f"there is nothing in the store {store.url}; is --store right?")
    try:
        with ExitStack() as held:
            if delete:
                held.enter_context(holding(store, names, console=console))
            collected = collect(
                store,
                min_age_s=min_age_hours * SECONDS_PER_HOUR,
                now_s=time.time(),
                is_held=_holder_of_new_study(store, names) if delete else lambda _: None,
                dry_run=not delete,
            )
    except (CollectError, LeaseError) as error:
        say(console, f"error: {error}")
        return FAILED
    for line in _lines(collected, deleted=delete):
        say(console, line)
    return DONE


def _holder_of_new_study(store: Store, names: Collection[str]) -> Callable[[str], str | None]:
    """Returns a function that names the holder of a study that this process does not hold."""

    def holder_of(name: str) -> str | None:
        holder = None if name in names else find_holder(store, name)
        return None if holder is None else str(holder)

    return holder_of


def _lines(collected: Collected, *, deleted: bool) -> Iterator[str]:
    for name, entries in collected.categories():
        if entries:
            yield f"{name}: {_size(entries)}"
            yield from (f"  {each.key}  {each.size_bytes} B" for each in entries[:MAX_KEYS_SHOWN])
        if len(entries) > MAX_KEYS_SHOWN:
            yield f"  and {len(entries) - MAX_KEYS_SHOWN} more"
    for key in collected.damaged:
        yield f"kept, as it cannot be read: {key}; `mergesweep verify` of its study says why"
    if collected.num_young:
        yield f"kept, as younger than --min-age: {counted(collected.num_young, 'object')}"
    total = _size(collected.entries)
    if not collected.entries:
        yield "nothing to delete"
    else:
        yield f"deleted {total}" if deleted else f"{total} in all; --delete deletes them"


def _size(entries: Collection[Entry]) -> str:
    num_bytes = sum(each.size_bytes for each in entries)
    return f"{counted(len(entries), 'object')}, {num_bytes / 1e6:.1f} MB"
