"""Saves time before and after a short command's work: while it loads torch, and when it ends."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orchestrator.environment.fast_imports import collecting_later


@contextmanager
def loading() -> Iterator[None]:
    """Imports modules in a `with` block faster than usual.

    The garbage collector is off. NumPy's BLAS starts no threads, which would spin for 0.1 to 0.2
    CPU-seconds.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with collecting_later():
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Ends the process when the block calls `sys.exit`, without tearing the interpreter down.

    Exit handlers run and output is flushed, but modules and objects are not freed, which would
    take 0.6 CPU-seconds once torch is loaded. The interpreter still handles and reports other
    exceptions, and output that cannot be flushed.

    The exit code holds. If an interrupt comes while Python executes a text, as for a dataclass
    during an import, the interpreter would otherwise end as if SIGINT had killed it, although the
    interrupt was handled.
    """
    try:
        yield
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, int):
            atexit._run_exitfuncs()  # noqa: SLF001 multiprocessing calls it too
            with suppress(OSError, ValueError):
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
                os._exit(code)
        raise
