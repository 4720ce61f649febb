"""Writes the theory tables to the study's folder, and reads them back while they are current.

theory-<table>.parquet     the tables; theory.json has their digests
theory.json                written last, with the digest of the result table that they belong to
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.digests import sha256_of_bytes
from orchestrator.record.folder import StudyDamagedError, StudyFolder
from orchestrator.theory.answers import Answers
from orchestrator.theory.schema import SCHEMAS
from workers.artifacts.checksummed_json import dump_checksummed

THEORY_FILE = "theory.json"
REVISION = 5
"""Rises when the tables of equal results and measurements say something else than before."""


def table_file(name: str) -> str:
    """Returns the file name of a theory table."""
    return f"theory-{name}.parquet"


def store_answers(
    folder: StudyFolder, answers: Answers, *, results: pa.Table, measured: Sequence[str] = ()
) -> None:
    """Writes the theory tables. Equal arguments give equal bytes.

    Args:
        folder: The study's folder.
        answers: The tables.
        results: The result table that they were computed from.
        measured: The ids of the measurements that they were computed from, sorted.
    """
    contents = {table_file(name): to_parquet(table) for name, table in answers.tables.items()}
    for name, content in contents.items():
        folder.write_bytes(name, content)
    fields = {
        "study": folder.name,
        "results": _digest(results),
        "measured": list(measured),
        "revision": REVISION,
        "files": {name: sha256_of_bytes(content) for name, content in contents.items()},
    }
    folder.write_bytes(THEORY_FILE, dump_checksummed(fields))


def stored_answers(
    folder: StudyFolder, *, results: pa.Table, measured: Sequence[str] | None = None
) -> Answers | None:
    """Returns the stored theory tables; None unless they are whole and of this result table.

    Args:
        folder: The study's folder.
        results: The result table.
        measured: The ids of the measurements that the tables must be computed from, by this
            revision; None for tables of any measurements and revision.
    """
    try:
        fields = folder.read_checksummed(THEORY_FILE)
    except StudyDamagedError:
        return None
    if fields is None or fields["results"] != _digest(results):
        return None
    if measured is not None and (
        fields["measured"] != list(measured) or fields.get("revision", 1) != REVISION
    ):
        return None
    tables = {name: _read(folder, table_file(name), fields["files"]) for name in SCHEMAS}
    found = {name: table for name, table in tables.items() if table is not None}
    return Answers(tables=found) if len(found) == len(SCHEMAS) else None


def to_parquet(table: pa.Table) -> bytes:
    """Returns a table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _read(folder: StudyFolder, name: str, digests: Mapping[str, Any]) -> pa.Table | None:
    content = folder.read_bytes(name)
    if content is None or sha256_of_bytes(content) != digests.get(name):
        return None
    return pq.read_table(io.BytesIO(content))


def _digest(results: pa.Table) -> str:
    return sha256_of_bytes(to_parquet(results))
