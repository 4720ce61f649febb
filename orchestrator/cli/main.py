"""The program `mergesweep`: takes charge of signals and streams before anything else is loaded."""

import os
import sys
import warnings

from orchestrator.cli.fast_exit import ending_at_once
from orchestrator.cli.signals import END_WITHIN_S, end_on_signals, interrupting_signals
from orchestrator.cli.standard_streams import guard_streams
from orchestrator.environment.startup import settle_environment


def main() -> None:
    """Runs the command line as the last work of the process."""
    end_on_signals()
    guard_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for those who call them
    settle_environment(os.environ)
    from orchestrator.cli.command_line import cli, report_in_threads

    report_in_threads()
    with interrupting_signals(within_s=END_WITHIN_S), ending_at_once():
        cli(prog_name="mergesweep")
