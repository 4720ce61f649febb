"""Writes and checks the outputs of a study: two tables and the report."""

import io
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from eval.digests import sha256_of_bytes
from orchestrator.record.folder import (
    CANDIDATES_FILE,
    EXPERTS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    StudyDamagedError,
    StudyFolder,
)
from workers.artifacts.checksummed_json import dump_checksummed

OUTPUTS_FILE = "outputs.json"
_FILES = (RESULTS_FILE, EXPERTS_FILE, REPORT_FILE)


def store_outputs(
    folder: StudyFolder,
    *,
    results: pa.Table,
    experts: pa.Table,
    page: str,
    committed: Mapping[str, Iterable[str]],
    candidates: pa.Table | None = None,
) -> None:
    """Writes the tables and the report, then outputs.json. Equal arguments give equal bytes.

    Args:
        folder: The study's folder.
        results: The result table.
        experts: The table of the experts on their own tasks.
        page: The report, as HTML.
        committed: Ids of the committed artifacts by kind. `verify` reports any of them that is
            missing later.
        candidates: The table of a search; None without a search.
    """
    contents = dict(
        zip(_FILES, (_to_parquet(results), _to_parquet(experts), page.encode()), strict=True)
    )
    if candidates is not None:
        contents[CANDIDATES_FILE] = _to_parquet(candidates)
    for name, content in contents.items():
        folder.write_bytes(name, content)
    fields = {
        "study": folder.name,
        "files": {name: sha256_of_bytes(content) for name, content in contents.items()},
        "artifacts": {kind: sorted(ids) for kind, ids in committed.items()},
    }
    folder.write_bytes(OUTPUTS_FILE, dump_checksummed(fields))


def promised_artifacts(folder: StudyFolder) -> dict[str, frozenset[str]]:
    """Returns the ids of the artifacts that were committed when the outputs were written, by kind.

    Without a readable outputs.json there are none.
    """
    try:
        outputs = folder.read_checksummed(OUTPUTS_FILE)
    except StudyDamagedError:
        return {}
    return {kind: frozenset(ids) for kind, ids in outputs["artifacts"].items()} if outputs else {}


def output_problems(folder: StudyFolder) -> dict[str, str]:
    """Returns the damage of each damaged output in words, by file name.

    A study without any outputs has none.
    """
    try:
        outputs = folder.read_checksummed(OUTPUTS_FILE)
    except StudyDamagedError as error:
        return {OUTPUTS_FILE: error.damage.removeprefix(f"{OUTPUTS_FILE} ")}
    names = _FILES if outputs is None else outputs["files"]
    found = {name: folder.read_bytes(name) for name in names}
    if outputs is None:
        others = [name for name, content in found.items() if content is not None]
        lost = f"is missing beside {', '.join(others)}: lost, or a run was stopped at its end"
        return {OUTPUTS_FILE: lost} if others else {}
    return {
        name: "is missing" if content is None else f"does not match its digest in {OUTPUTS_FILE}"
        for name, content in found.items()
        if content is None or sha256_of_bytes(content) != outputs["files"][name]
    }


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
