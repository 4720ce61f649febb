"""The verbs that hold a study, without a cluster: a fake session stands for the work."""

import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestrator.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from orchestrator.cli.held_session import (
    AFTER_REPAIR,
    EndedEarlyError,
    HeldSession,
    held_session,
)
from orchestrator.cli.verbs.prepare import prepare_opened
from orchestrator.lease.holder import Claim, find_holder
from orchestrator.lease.lease import Lease
from orchestrator.record.folder import PLAN_FILE
from orchestrator.run import opened as opened_module
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.stages import PreparationError
from orchestrator.study.reader import parse_study
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.store.protocol import StoreFullError


class FakeSession:
    """A session whose preparation does what a test wants."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def prepare(self, console: Console) -> None:
        """Does the work."""
        assert console
        self._work()


@pytest.fixture
def opened(study_fields: Callable[..., dict[str, Any]]) -> OpenedStudy:
    """Opens the small study in an empty store."""
    text = yaml.safe_dump(study_fields())
    return open_study(parse_study(text, source="study.yaml"), text=text)


def prepare(
    opened: OpenedStudy, work: Callable[[], object], *, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Prepares a study with a fake session; returns the exit code and the printed text."""
    monkeypatch.setattr(HeldSession, "session", lambda _: FakeSession(work))
    printed = StringIO()
    code = prepare_opened(opened, console=Console(file=printed, width=500))
    return code, printed.getvalue()


def is_free(opened: OpenedStudy) -> bool:
    """Returns whether nobody holds the study."""
    return find_holder(opened.artifacts.store, "small") is None


def test_plan_is_in_the_store_and_the_study_is_held_during_the_work(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gc` keeps what a stored plan names, and no second driver may start."""
    seen: list[bool] = []

    def work() -> None:
        seen.append(opened.folder.read_bytes(PLAN_FILE) is not None)
        seen.append(is_free(opened))

    code, printed = prepare(opened, work, monkeypatch=monkeypatch)
    assert code == DONE
    assert seen == [True, False]
    assert is_free(opened)
    assert "the base and the images of study small are prepared" in printed


@pytest.mark.parametrize(
    ("error", "expected", "next_step"),
    [
        (PreparationError("x.png is no image", is_input_wrong=True), BAD_INPUT, AFTER_REPAIR),
        (PreparationError("no memory", is_input_wrong=False), FAILED, "run the same command again"),
        (StoreFullError("full"), FAILED, "run the same command again"),
        (ConnectionError("gone"), FAILED, "run the same command again"),
    ],
)
def test_error_is_printed_with_the_next_step(
    opened: OpenedStudy,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: int,
    next_step: str,
) -> None:
    """The study is free again, and the exit code says whether the user's files are the reason."""

    def fail() -> None:
        raise error

    code, printed = prepare(opened, fail, monkeypatch=monkeypatch)
    assert code == expected
    assert f"error: {error}" in printed
    assert next_step in printed
    assert is_free(opened)


def test_signal_stops_the_work_cleanly(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM ends the block with exit code 130 and frees the study."""
    code, printed = prepare(
        opened, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch=monkeypatch
    )
    assert code == INTERRUPTED
    assert "stopped; everything that was committed is kept" in printed
    assert is_free(opened)


def test_study_that_was_taken_over_is_an_error(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the new holder."""
    elsewhere = replace(Claim.here(started_at_s=0.0), host="far", machine="another")

    def take_over() -> None:
        Lease.acquire(opened.artifacts.store, "small", claim=elsewhere, take_over=True)

    code, printed = prepare(opened, take_over, monkeypatch=monkeypatch)
    assert code == FAILED
    assert "@far, pid" in printed
    assert "taken over" in printed


def test_held_study_is_refused(opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No work begins, and nothing is written."""
    with Lease.acquire(opened.artifacts.store, "small"):
        code, printed = prepare(opened, pytest.fail, monkeypatch=monkeypatch)
    assert code == FAILED
    assert "study small is held by" in printed
    assert opened.folder.read_bytes(PLAN_FILE) is None


def test_work_that_the_previous_holder_has_done_is_not_done_again(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch, expert_manifest: Callable[..., Manifest]
) -> None:
    """The study is reopened under the lease: its base and images are there by now."""
    plan, store = opened.plan, opened.artifacts.store
    template = expert_manifest(next(iter(plan.experts.values())))
    made = [("base", plan.bases.jobs[0].spec.id), *(("data", each.id) for each in plan.datasets)]
    images = {"num_classes": 10, "num_train": 8, "num_test": 8, "images_per_shard": 8}
    for kind, id_ in made:
        metrics = images if kind == "data" else template.metrics
        manifest = replace(template, kind=kind, id=id_, metrics=metrics)
        store.put(Layout.manifest(kind, id_), manifest.to_json())
    assert not opened.is_prepared()
    code, _ = prepare(opened, pytest.fail, monkeypatch=monkeypatch)
    assert code == DONE


def test_study_is_reopened_with_what_was_found_first(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare` uses own tasks and resized models like `run`: later changes change no plan."""
    monkeypatch.setattr(opened_module, "build_plan", None)  # a call would fail
    code, _ = prepare(opened, lambda: None, monkeypatch=monkeypatch)
    assert code == DONE
    assert opened.reopened().plan is opened.plan


def test_early_end_has_an_exit_code(opened: OpenedStudy) -> None:
    """Callers get one exception, whatever ended the work."""

    def work() -> None:
        with held_session(
            opened, console=Console(file=StringIO()), take_over=False, publishes=False, next_step=""
        ) as held:
            held.stopping.set()
            held.end_if_stopped()

    with pytest.raises(EndedEarlyError) as ended:
        work()
    assert ended.value.exit_code == INTERRUPTED
