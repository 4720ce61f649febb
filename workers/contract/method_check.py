"""Loads a user's method and checks every part of the contract."""

import subprocess
import traceback
from functools import partial

import torch

from merge.own import OwnMethod
from workers.contract.again import depends_on_hashes, load
from workers.contract.checks import (
    CARD,
    CHECKS,
    BrokenError,
    Check,
    Tried,
    check_declaration,
)
from workers.contract.report import CheckLine, MethodQuestion, MethodReport
from workers.own_methods.sources import OwnMethodError
from workers.specs.own_method import OwnMethodSpec

_LOADS = "loads"
_FIX = "correct the error; `mergesweep check-method` shows all checks"
_ALONE = (
    "a method's file stands alone: nodes get this file and nothing beside it; install what it "
    "imports on every node"
)


def check_method(question: MethodQuestion) -> MethodReport:
    """Returns the outcome of every check; checks after a failed load are left out."""
    torch.set_num_threads(1)
    try:
        method = load(question)
    except ModuleNotFoundError as error:
        return _failed(_LOADS, found=str(error), remedy=_ALONE)
    except OwnMethodError as error:
        found, _, remedy = str(error).partition("; ")
        return _failed(_LOADS, found=found, remedy=remedy or _FIX)
    except (Exception, SystemExit) as error:  # noqa: BLE001 the user's code may raise anything
        return _failed(_LOADS, found=_told(error, path=question.path), remedy=_FIX)
    lines = [CheckLine(name=_LOADS, is_kept=True, found=question.source[:23])]
    remedies: dict[str, str] = {}
    try:
        check_declaration(method)
    except BrokenError as error:
        lines.append(CheckLine(name=CARD, is_kept=False, found=str(error)))
        return MethodReport(lines=tuple(lines), spec=None, remedies={CARD: error.remedy})
    tried = Tried.of(method, name=question.name)
    checks: dict[str, Check] = {
        **CHECKS,
        "hashes": partial(_check_hashes, question=question),
    }
    for name, check in checks.items():
        try:
            lines.append(CheckLine(name=name, is_kept=True, found=check(tried)))
        except BrokenError as error:
            lines.append(CheckLine(name=name, is_kept=False, found=str(error)))
            remedies[name] = error.remedy
        except (Exception, SystemExit) as error:  # noqa: BLE001 as above
            told = _told(error, path=question.path)
            lines.append(CheckLine(name=name, is_kept=False, found=told))
            remedies[name] = _FIX
        if name == "tensors" and remedies:
            break  # the later checks would meet the same faults
    described = None if remedies else _spec(method, question=question)
    return MethodReport(lines=tuple(lines), spec=described, remedies=remedies)


def _check_hashes(tried: Tried, *, question: MethodQuestion) -> str:
    """Checks that a merge is the same in a process in which texts have other hashes."""
    try:
        differs = depends_on_hashes(tried, question=question)
    except subprocess.TimeoutExpired:
        return "not tried: it takes too long"
    if differs:
        raise BrokenError(
            "the result depends on Python's hashes of texts, which differ between processes",
            remedy="take zlib.crc32(name.encode()) or hashlib in place of hash(), and sort what is "
            "in sets",
        )
    if differs is None:
        return "not tried: the file neither hashes nor makes sets"
    return "another process gives equal bits"


def _spec(method: OwnMethod, *, question: MethodQuestion) -> OwnMethodSpec:
    return OwnMethodSpec.of(method.card, name=question.name, source=question.source)


def _failed(name: str, *, found: str, remedy: str) -> MethodReport:
    line = CheckLine(name=name, is_kept=False, found=found)
    return MethodReport(lines=(line,), remedies={name: remedy})


def _told(error: BaseException, *, path: str | None) -> str:
    """Returns an error with the last line of the user's file that it passed."""
    lines = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == path]
    at = f" (line {lines[-1].lineno} of {path}: `{lines[-1].line}`)" if lines else ""
    return f"{type(error).__name__}: {error}{at}"
