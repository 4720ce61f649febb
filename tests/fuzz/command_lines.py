"""Command lines with random words, on a finished store with random damage."""

from __future__ import annotations

import shutil
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
from case import NASTY_NUMBERS, NASTY_TEXTS, Case
from damage import damage

from orchestrator.cli.command_line import cli

if TYPE_CHECKING:
    import random

ARCHIVE = Path(__file__).parents[1] / "golden" / "finished_store.tar.xz"
NAME = "before"
READING = ("status", "results", "results", "report", "report", "verify", "gc")
"""Verbs that end by themselves on a finished study. The others serve, wait or start Ray, so they
get studies that do not exist."""
OTHERS = (
    "methods",
    "track",
    "ui",
    "watch",
    "logs",
    "stop",
    "resume",
    "run",
    "prepare",
    "submit",
    "plan",
    "merge",
    "nosuch",
    "--version",
    "--help",
    "",
)
STORES = (
    "./nosuch",
    "./store/studies",
    "store/marker",
    "s3://",
    "S3://Bucket",
    "gs://x/y",
    "study.yaml",
    *NASTY_TEXTS,
)
PLACES = (
    "out.html",
    "no/such/out.html",
    ".",
    "store",
    "/dev/full",
    "n" * 300,
    "[x].html",
    "/proc/x",
)


def make(rng: random.Random, folder: Path) -> Case:
    """Writes a finished store, often damaged, and calls a verb with random words."""
    store = folder / "store"
    shutil.copytree(_unpacked(str(folder.parent)), store, symlinks=True)
    about = [_damage(store, rng) for _ in range(rng.choice([0, 1, 1, 2]))]
    verb = rng.choice(READING if rng.random() < 0.75 else OTHERS)
    words = [verb]
    command = cli.commands.get(verb)
    for parameter in command.params if command else ():
        words += _words(parameter, rng, is_wild=rng.random() < 0.15, can_stay=verb not in READING)
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), str(rng.choice([*NASTY_TEXTS, *NASTY_NUMBERS])))
    return Case(commands=[tuple(words)], about=about)


def _words(
    parameter: click.Parameter, rng: random.Random, *, is_wild: bool, can_stay: bool
) -> list[str]:
    """Returns the words of one argument or option; none if it is left out."""
    if isinstance(parameter, click.Argument):
        known = NAME if not can_stay else rng.choice(["nosuch", "study.yaml", "befor"])
        return [rng.choice(NASTY_TEXTS) if is_wild else known]
    option = parameter.opts[-1]
    if option == "--store":
        return [option, rng.choice(STORES) if is_wild else "./store"]
    if rng.random() < 0.6 and not parameter.required:
        return []
    if getattr(parameter, "is_flag", False):
        return [option]
    return [option, _value(parameter, rng, is_wild=is_wild)]


def _value(parameter: click.Parameter, rng: random.Random, *, is_wild: bool) -> str:
    if is_wild:
        return str(rng.choice([*NASTY_TEXTS, *NASTY_NUMBERS]))
    if isinstance(parameter.type, click.Choice):
        return str(rng.choice(parameter.type.choices))
    if isinstance(parameter.type, click.Path):
        return rng.choice(PLACES)
    if "--address" in parameter.opts:
        return rng.choice(["http://127.0.0.1:1", "127.0.0.1:1", "auto", "ray://127.0.0.1:1"])
    return rng.choice(["0", "1", "2", "1000"])


@cache
def _unpacked(folder: str) -> Path:
    """Unpacks the archive once per run, beside the folders of the cases."""
    target = Path(folder) / "unpacked"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(target, filter="data")
    return target


def _damage(store: Path, rng: random.Random) -> str:
    """Damages an object of the store, in half of the cases one of the study's own."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    own = [path for path in files if "studies" in path.parts]
    path = rng.choice(rng.choice([files, own]))
    return f"{path.parent.relative_to(store)}/{damage(path, rng)}"
