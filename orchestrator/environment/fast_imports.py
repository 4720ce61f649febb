"""Imports large libraries faster than usual."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Switches the garbage collector off inside the `with` block, which imports modules.

    The objects of modules all stay: scanning torch's again and again takes 0.7 of the 4 CPU-seconds
    in which a worker imports what it needs. Later collections skip these objects too.
    """
    is_collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collected:
            gc.freeze()
            gc.enable()
