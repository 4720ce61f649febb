"""A case of the fuzz: files in a folder, and the commands to run on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[str]
"""The arguments of one call of `mergesweep`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Commands that run one after the other in the folder of their files."""

    commands: Sequence[Command]
    about: Sequence[str]
    """The mutations that were applied, in words."""


Maker = Callable[[random.Random, Path], Case]
"""Writes the files of a random case into an empty folder and returns the case."""

NASTY_TEXTS = (
    "",
    " ",
    "a" * 300,
    "../up",
    "/dev/null",
    "[bold]x[/]",
    "run[final]",
    ":smile:",
    "a\nb",
    "tab\there",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "e\u0301t\u00e9",
    "日本語",
    "<script>alert(1)</script>",
    "name with spaces",
    "'quoted' \"twice\"",
    "%s %d {} {0}",
    "null",
    "true",
    "1e3",
    "-1",
    "nan",
    "~/x",
    "$HOME",
    "s3://",
    "s3://bucket",
    "http://127.0.0.1:1",
    "file:///etc/passwd",
    "--help",
    "-",
)
"""Texts that are easily read as something else."""
NASTY_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63),
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    1e-320,
    0.5,
)


def nasty_value(rng: random.Random) -> object:
    """Returns a value of any type that a YAML file may have in any place."""
    return rng.choice(
        [
            None,
            True,
            [],
            {},
            [None],
            {"a": 1},
            {1: 2},
            [[[]]],
            [1, 1],
            rng.choice(NASTY_NUMBERS),
            rng.choice(NASTY_NUMBERS),
            rng.choice(NASTY_TEXTS),
            rng.choice(NASTY_TEXTS),
        ]
    )
