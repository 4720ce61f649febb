"""The process that answers questions about models, and the cache of its answers."""

import faulthandler
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from known_models import MODEL_SIZES, USUAL_STEP

from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.check import __main__ as process
from workers.check.ask import model_reports, remember_reports
from workers.check.report import ModelReport, ModelUse

USE = ModelUse(model="test_resnet", image_size=32, weights=("none",), steps=(USUAL_STEP,))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets an empty node cache and returns its directory."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.mark.slow
def test_reports_come_from_another_process_and_are_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each use gets its report; only reports without a fault are kept on the node."""
    unknown = replace(USE, model="no_such_model")
    found = model_reports([USE, unknown])
    assert found[USE] == ModelReport(size=MODEL_SIZES["test_resnet"])
    assert [fault.kind for fault in found[unknown].faults] == ["name"]
    (kept,) = own_cache.glob("models-timm-*-torch-*.json")
    assert "no_such_model" not in kept.read_text()
    monkeypatch.setattr("subprocess.run", None)
    assert model_reports([USE, unknown]) == found


def test_kept_reports_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second plan of the same study starts no process."""
    report = ModelReport(size=MODEL_SIZES["test_resnet"], is_resized=True)
    remember_reports({USE.key: report})
    monkeypatch.setattr("subprocess.run", None)
    assert model_reports([USE]) == {USE: report}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"size": 3}}'])
def test_garbled_cache_counts_as_empty(content: str, own_cache: Path) -> None:
    """A cache that cannot be read makes nothing fail."""
    remember_reports({})
    (kept,) = own_cache.iterdir()
    kept.write_text(content)
    assert model_reports([]) == {}


def end_by(number: signal.Signals) -> None:
    """Ends this process by a signal, without pytest's report on it."""
    faulthandler.disable()
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (partial(end_by, signal.SIGSEGV), "test_resnet at 32 px crashes with torch"),
        (partial(end_by, signal.SIGKILL), "was killed, probably as this machine has"),
        (signal.pause, "took longer than 1 s"),
        (lambda: os._exit(3), "ended with exit code 3"),
    ],
    ids=["crash", "memory", "endless", "exit"],
)
def test_check_that_ends_without_an_answer_is_reported(
    end: Callable[[], None], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash is a fault of the model; other ends only leave the model unchecked."""
    monkeypatch.setattr(process, "check_model", lambda _: end())
    report = process.report_on(USE, limit_s=1)
    if "crashes" in expected:
        assert expected in report.faults[0].fault
        assert report.unchecked is None
    else:
        assert report.faults == ()
        assert expected in (report.unchecked or "")
