"""Writes a commented study to begin with, and its schema for editors."""

import json
from importlib.resources import files
from pathlib import Path

from orchestrator.study.json_schema import SCHEMA_FILE, schema_line, study_json_schema
from workers.store.output_file import write_output

TEMPLATES = ("demo", "laws", "own-images")
"""Studies that a new one can begin with: files of `orchestrator/study/templates/`."""


class StudyExistsError(Exception):
    """The study file is there already; the message names it."""


def schema_text() -> str:
    """Returns the JSON Schema of a study file, as text."""
    return json.dumps(study_json_schema(), indent=1, ensure_ascii=False) + "\n"


def write_study(path: Path, *, template: str) -> None:
    """Writes a study file from a template, and beside it the schema by which editors check it.

    A schema that is there is replaced if it is of another release.

    Raises:
        StudyExistsError: The file exists.
        OutputError: A file cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise StudyExistsError(f"{path} exists, and is not overwritten; name another file")
    text = (files("orchestrator.study") / "templates" / f"{template}.yaml").read_text("utf-8")
    schema = path.with_name(SCHEMA_FILE)
    write_output(path, (schema_line() + text).encode())
    write_output(schema, schema_text().encode())
