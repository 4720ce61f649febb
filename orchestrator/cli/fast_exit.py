"""What a short command saves around its work: garbage and threads while it loads, a tidy end."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def loading() -> Iterator[None]:
    """Loads modules without what a short command has no use for.

    Garbage is not looked for among what they make, which all stays: looking through torch's objects
    again and again is 0.5 of the 2.4 CPU-seconds of its import. Nor are they looked through
    afterwards. And numpy's BLAS starts no threads, which spin for 0.1 to 0.2 CPU-seconds.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    is_collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collected:
            gc.freeze()
            gc.enable()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Ends the process where the block calls `sys.exit`, without taking the interpreter apart.

    Exit handlers run, and output is flushed. Left out is to free every module and object, which
    takes 0.6 CPU-seconds once torch is loaded. An end by another error, or with output that cannot
    be flushed, is left to the interpreter, which reports it.
    """
    try:
        yield
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            atexit._run_exitfuncs()  # noqa: SLF001 what multiprocessing calls for the same purpose
            with suppress(OSError, ValueError):
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
                os._exit(end.code or 0)
        raise
