"""Asks another process to check users' methods, and keeps the answers. Free of torch."""

import contextlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from workers.artifacts.code_version import code_version
from workers.artifacts.node_cache import cache_root, own_cache
from workers.contract.report import MethodQuestion, MethodReport
from workers.forked import module_command
from workers.store.atomic import replacing

IMPORT_S, CHECK_S = 180.0, 330.0
"""Timeouts: importing torch takes long on a busy machine; a check ends itself earlier."""


def method_reports(
    questions: Iterable[MethodQuestion], *, anew: bool = False
) -> dict[MethodQuestion, MethodReport]:
    """Returns a report for each question.

    Reports of methods that keep the whole contract are kept on the node, for each release of
    mergesweep and version of torch.

    Args:
        questions: The methods to check.
        anew: Whether to check methods again whose reports are kept.

    Raises:
        NotPrivateError: The node's cache is another user's.
    """
    wanted = sorted(set(questions), key=lambda each: each.key)
    path = _cache_path()
    known = {} if anew else _cached(path)
    missing = [each for each in wanted if each.key not in known]
    if missing:
        known |= _ask(missing)
        kept = {
            key: report.to_json()
            for key, report in (_cached(path) | known).items()
            if not report.broken and report.unchecked is None
        }
        # An error means that the next command asks again.
        with contextlib.suppress(OSError), replacing(path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return {each: known[each.key] for each in wanted}


def _ask(questions: list[MethodQuestion]) -> dict[str, MethodReport]:
    """Returns the reports by key."""
    try:
        answer = subprocess.run(  # noqa: S603 our own
            module_command("workers.contract"),
            input="".join(f"{each.key}\n" for each in questions).encode(),
            capture_output=True,
            timeout=IMPORT_S + CHECK_S * len(questions),
            check=True,
        ).stdout
        reports = [MethodReport.from_json(json.loads(line)) for line in answer.splitlines()]
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").split("\n") if error.stderr else []
        return _unchecked(questions, why=next((x for x in reversed(lines) if x), str(error)))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
        return _unchecked(questions, why=str(error))
    return {each.key: report for each, report in zip(questions, reports, strict=True)}


def _unchecked(questions: list[MethodQuestion], *, why: str) -> dict[str, MethodReport]:
    report = MethodReport(unchecked=f"it could not be checked here ({why})")
    return {each.key: report for each in questions}


def _cached(path: Path) -> dict[str, MethodReport]:
    try:
        content = json.loads(path.read_bytes())
        return {key: MethodReport.from_json(fields) for key, fields in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _cache_path() -> Path:
    torch = importlib.metadata.version("torch")
    name = f"methods-{code_version()}-torch-{torch}.json"
    return own_cache(cache_root()) / name
