"""Acquires the leases of studies for verbs that write to the store."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from orchestrator.cli.signals import interrupting_signals
from orchestrator.lease.lease import Lease
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from workers.store.opening import supports_conditional_put
from workers.store.protocol import Store


def acquire_lease(opened: OpenedStudy, *, console: Console, take_over: bool) -> Lease:
    """Acquires a study's lease; warns of a store that cannot tell which of two writers was first.

    Raises:
        LeaseError: Another driver holds the study.
        StoreError: The store failed.
    """
    store = opened.artifacts.store
    is_weak = not supports_conditional_put(store)
    if is_weak:
        say(
            console,
            f"warning: {opened.store_url} ignores conditional writes, so it cannot tell which of "
            "two writers was first. Only the lease keeps a second driver away: do not use "
            "--take-over on this store while another driver may be alive",
        )
    return Lease.acquire(
        store,
        opened.plan.study.name,
        take_over=take_over,
        is_weak=is_weak,
        say=lambda text: say(console, text),
    )


@contextmanager
def holding(store: Store, names: Iterable[str], *, console: Console) -> Iterator[None]:
    """Holds the leases of studies for the length of a `with` block, so that no run starts.

    A signal interrupts the block, and the leases are released, which may take some seconds.

    Raises:
        LeaseError: A driver holds one of the studies.
        StoreError: The store failed.
    """
    is_weak = not supports_conditional_put(store)
    with interrupting_signals(), ExitStack() as leases:
        for name in names:
            lease = Lease.acquire(store, name, is_weak=is_weak, say=lambda text: say(console, text))
            leases.enter_context(lease)
            lease.start(lambda _: None)
        yield
