"""The console that every verb prints with. No other module creates one."""

import os
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from orchestrator.progress.visible_text import encodable, visible

PIPED_WIDTH = 120
"""The width of tables in columns where the output is a file or another program."""
LEAST_WIDTH = 20
"""The width of narrower terminals, which break the lines themselves; some report a width of 0."""


class PlainConsole(Console):
    """A console that prints every text as it is.

    Names of files, tasks and labels come from outside. So nothing in a text is markup or the code
    of an emoji, and characters that would act on the terminal are spelt.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        file: IO[str] | None = None,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            stderr=stderr,
            file=file,
            width=width,
            force_terminal=force_terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )
        if width is None and not self.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
            self.width = PIPED_WIDTH
        self.width = max(self.width, LEAST_WIDTH)

    def status(self, status: RenderableType, **options: Any) -> Status:  # noqa: ANN401 rich's own options
        """Shows a line with a spinner of ASCII characters, for the length of a `with` block."""
        line = self.render_str(status) if isinstance(status, str) else status
        return super().status(line, **{"spinner": "line", **options})

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 rich's own options
        """Returns a string as rich's text; rich calls this for all strings, also in tables."""
        return super().render_str(encodable(visible(text), self.encoding), **options)
