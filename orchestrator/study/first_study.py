"""Writes a commented study to begin with, and its schema for editors."""

import json
from importlib.resources import files
from pathlib import Path

from eval.user_paths import is_there
from orchestrator.study.json_schema import SCHEMA_FILE, schema_line, study_json_schema
from workers.store.output_file import write_output

TEMPLATES = ("demo", "laws", "search", "own-images", "method")
"""Studies that a new one can begin with: files of `orchestrator/study/templates/`."""


METHOD_FILE = "my_method.py"
"""The file of a merging method, beside a study of the template `method`."""


class StudyExistsError(Exception):
    """A file is there already; the message names it."""


def schema_text() -> str:
    """Returns the JSON Schema of a study file, as text."""
    return json.dumps(study_json_schema(), indent=1, ensure_ascii=False) + "\n"


def write_study(path: Path, *, template: str) -> None:
    """Writes a study file from a template, and beside it the schema by which editors check it.

    The template `method` also has the file of a method.

    A schema that is there is replaced if it is of another release.

    Raises:
        StudyExistsError: The file exists.
        OutputError: A file cannot be written.
    """
    method = path.with_name(METHOD_FILE)
    for each in (path, method) if template == "method" else (path,):
        if is_there(each):
            raise StudyExistsError(f"{each} exists, and is not overwritten; name another file")
    templates = files("orchestrator.study") / "templates"
    text = (templates / f"{template}.yaml").read_text("utf-8")
    schema = path.with_name(SCHEMA_FILE)
    if template == "method":
        write_output(method, (templates / "my_method.txt").read_bytes())
    write_output(path, (schema_line() + text).encode())
    write_output(schema, schema_text().encode())
