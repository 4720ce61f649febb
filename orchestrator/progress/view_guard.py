"""Keeps an error in something that only shows a run from ending it, or from being silent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ViewGuard:
    """Swallows the errors of one view, such as the progress panel, and tells the first of them.

    The view is tried again each time, as the next numbers may be fine.
    """

    def __init__(self, what: str, *, note: Callable[[str], object]) -> None:
        """Creates a guard that has seen no error.

        Args:
            what: The name of the view, which begins the note.
            note: Takes the note, a single line.
        """
        self._what = what
        self._note = note
        self._has_failed = False

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Ends its `with` block at the first error, without raising it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 a view never fails a run
            if not self._has_failed:
                self._has_failed = True
                text = " ".join(str(error).split())[:300]
                self._note(f"{self._what} failed; the run goes on: {type(error).__name__}: {text}")
