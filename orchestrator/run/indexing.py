"""Keeps the index of a study's manifests up to date while a run commits more of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orchestrator.run.opened import OpenedStudy
from orchestrator.run.stored_manifests import MIN_INDEXED

INDEX_EVERY_S = 60.0
"""Seconds between two looks at the new manifests. A driver that is killed leaves those of the last
look, and fewer than `MIN_INDEXED` more, to be read one by one."""


@contextmanager
def indexing(opened: OpenedStudy, *, every_s: float = INDEX_EVERY_S) -> Iterator[None]:
    """Writes the index at intervals from a thread of its own, and once more at the end."""
    ending = threading.Event()

    def write_at_intervals() -> None:
        while not ending.wait(every_s):
            write_index(opened, min_new=MIN_INDEXED)

    thread = threading.Thread(target=write_at_intervals, name="manifest-index", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        write_index(opened)


def write_index(opened: OpenedStudy, *, min_new: int = 1) -> None:
    """Adds the committed manifests that the index lacks, if the study has enough for an index.

    Never fails: without an index, the next run reads the manifests one by one.
    """
    manifests = opened.ledger.committed().manifests
    if len(manifests) >= MIN_INDEXED:
        with suppress(Exception):  # the index is a view, and a view never fails a run
            opened.index.write(manifests, min_new=min_new)
