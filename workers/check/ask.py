"""Asks another process about models, and keeps the answers in the node's cache. Free of torch."""

import contextlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from workers.artifacts.node_cache import cache_root, own_cache
from workers.check.report import ModelReport, Use
from workers.forked import module_command
from workers.store.atomic import replacing

IMPORT_S, CHECK_S = 180.0, 150.0
"""Timeouts: importing torch and timm takes long on a busy machine; a check ends itself earlier."""
_asked: dict[tuple[Path, str], ModelReport] = {}
"""Answers of this process by cache and use, for a cache that cannot be written."""


def model_reports(uses: Iterable[Use]) -> dict[Use, ModelReport]:
    """Returns a report for each use; none if this machine cannot run torch and timm.

    Reports without a fault are kept on the node for each version of torch and timm.

    Raises:
        NotPrivateError: The node's cache is another user's.
    """
    wanted = sorted(set(uses), key=lambda use: use.key)
    try:
        path = _cache_path()
    except importlib.metadata.PackageNotFoundError:
        return {}
    known = _cached(path) | {key: each for (at, key), each in _asked.items() if at == path}
    missing = [use for use in wanted if use.key not in known]
    if missing:
        found = _ask(missing)
        known |= found
        _asked.update({(path, key): report for key, report in found.items()})
        if any(_is_lasting(report) for report in found.values()):
            remember_reports({key: each for key, each in known.items() if _is_lasting(each)})
    return {use: known[use.key] for use in wanted if use.key in known}


def remember_reports(reports: Mapping[str, ModelReport]) -> None:
    """Replaces the reports in the node's cache, which are by the keys of their uses."""
    path = _cache_path()
    content = {key: report.to_json() for key, report in reports.items()}
    # An error means that the next command asks again.
    with contextlib.suppress(OSError), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _is_lasting(report: ModelReport) -> bool:
    """Returns whether another check of the same use would give the same report."""
    return not report.faults and report.unchecked is None


def _ask(uses: list[Use]) -> dict[str, ModelReport]:
    """Returns the reports by key."""
    questions = "".join(f"{use.key}\n" for use in uses)
    try:
        answer = subprocess.run(  # noqa: S603 our own
            module_command("workers.check"),
            input=questions.encode(),
            capture_output=True,
            timeout=IMPORT_S + CHECK_S * len(uses),
            check=True,
        ).stdout
        reports = [ModelReport.from_json(json.loads(line)) for line in answer.splitlines()]
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").split("\n") if error.stderr else []
        return _unchecked(uses, why=next((line for line in reversed(lines) if line), str(error)))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
        return _unchecked(uses, why=str(error))
    return {use.key: report for use, report in zip(uses, reports, strict=True)}


def _unchecked(uses: list[Use], *, why: str) -> dict[str, ModelReport]:
    models = ", ".join(sorted({use.model for use in uses}))
    report = ModelReport(unchecked=f"{models} could not be checked here ({why})")
    return {use.key: report for use in uses}


def _cached(path: Path) -> dict[str, ModelReport]:
    try:
        content = json.loads(path.read_bytes())
        return {key: ModelReport.from_json(fields) for key, fields in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _cache_path() -> Path:
    timm, torch = (importlib.metadata.version(name) for name in ("timm", "torch"))
    return own_cache(cache_root()) / f"models-timm-{timm}-torch-{torch}.json"
