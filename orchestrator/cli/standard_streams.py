"""Keeps standard output and error writable, whoever reads them and whatever their encoding is."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_READER_LEFT = (errno.EPIPE, errno.EIO)
"""A closed pipe, such as that of `| head -1`; a closed terminal."""


class OutputFile(io.FileIO):
    """The file of an output stream, which drops everything after the first failed write.

    So a verb ends in its usual way and with its usual exit code, and a run goes on.
    """

    failure: OSError | None = None
    """The error of the first write that failed."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Writes bytes, or drops them."""
        if self.failure is None:
            try:
                return super().write(content)
            except BlockingIOError:
                raise
            except OSError as error:
                self.failure = error
        return len(content)


def guard_streams() -> None:
    """Replaces both output streams of this process."""
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def has_reader() -> bool:
    """Returns whether somebody may still read standard output."""
    return _failure() is None


def output_failure() -> OSError | None:
    """Returns why standard output lacks a part, such as a full disk; None if nobody misses any."""
    sys.stdout.flush()
    failure = _failure()
    return None if failure is None or failure.errno in _READER_LEFT else failure


def _failure() -> OSError | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, OutputFile) else None


def _guarded(stream: TextIO | None) -> TextIO:
    """Returns a stream that writes to the same file; the null device if the file is closed."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw: Any = OutputFile(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )
