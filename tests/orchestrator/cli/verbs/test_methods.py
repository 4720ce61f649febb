"""`mergesweep methods`: all methods, or those that are named."""

import pytest
from click.testing import CliRunner

from orchestrator.cli.command_line import cli


def test_a_named_method_is_listed_alone() -> None:
    """`methods ties` shows the parameters of TIES and no other method."""
    listed = CliRunner().invoke(cli, ["methods", "ties"])
    assert listed.exit_code == 0, listed.output
    assert "density=0.2" in listed.stdout
    assert "slerp" not in listed.stdout


@pytest.mark.parametrize("name", ["TIES", "ties-merging"])
def test_an_unknown_method_gets_the_nearest_name(name: str) -> None:
    """A name that is nearly one of the catalogue's ends with 2 and the right name."""
    refused = CliRunner().invoke(cli, ["methods", "average", name])
    assert refused.exit_code == 2
    assert f"'{name}' is no merging method" in refused.stderr
    assert "did you mean ties?" in refused.stderr
    assert refused.stdout == ""
