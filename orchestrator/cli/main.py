"""The program `mergesweep`: takes charge of signals and streams before anything else is loaded."""

import os
import sys

from orchestrator.cli.exit_codes import INTERRUPTED
from orchestrator.cli.fast_exit import ending_at_once
from orchestrator.cli.signals import END_WITHIN_S, end_on_signals, interrupting_signals
from orchestrator.cli.standard_streams import guard_streams
from orchestrator.environment.startup import settle_environment


def main() -> None:
    """Runs the command line as the last work of the process."""
    loads_torch = sys.argv[1:2] == ["merge"]
    end_on_signals()
    guard_streams()
    settle_environment(os.environ)
    from orchestrator.cli.command_line import cli

    with (
        interrupting_signals(within_s=END_WITHIN_S),
        # If the interrupt came while Python executed a text, as for a dataclass during an import,
        # the interpreter itself would end as if SIGINT had killed it.
        ending_at_once(only_code=None if loads_torch else INTERRUPTED),
    ):
        cli(prog_name="mergesweep")
