from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from manual_clock import ManualClock

from orchestrator.cli.study_watch import StudyWatch
from orchestrator.cli.verbs.status import show_activity
from orchestrator.cli.verbs.watch import watch_study
from orchestrator.lease.holder import Claim
from orchestrator.lease.lease import STALE_AFTER_S, Lease
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.progress.state import Progress, Tally, progress_json
from orchestrator.run.opened import open_study
from orchestrator.study.reader import parse_study
from workers.store.local import LocalStore
from workers.store.opening import open_store
from workers.store.protocol import Store

PROGRESS = Progress(
    elapsed_s=5.0,
    stage="fine-tuning",
    stages=(Tally(name="experts", num_done=1, num_planned=3),),
    axes=(),
    trials=(),
    num_trials=0,
    images=(),
    failures=("trial 0123456789abcdef failed: OSError: disk",),
    num_failures=1,
    per_minute={},
    in_use=(),
    seconds_left=60.0,
    tracking="ok",
)


@pytest.fixture
def url(study_fields: Callable[..., dict[str, Any]]) -> str:
    """Returns the store of a small study that was planned and never run."""
    text = yaml.safe_dump(study_fields())
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    return opened.store_url


@pytest.fixture
def store(url: str) -> Store:
    """Opens the study's store."""
    return open_store(url)


def held(store: Store, *, host: str = "far") -> Lease:
    """Returns the lease of a driver on another machine that has published its progress."""
    claim = replace(Claim.here(started_at_s=0.0), host=host, machine="another")
    lease = Lease.acquire(store, "small", claim=claim)
    lease.beat()
    lease.write_progress(progress_json(PROGRESS))
    return lease


def console() -> tuple[PlainConsole, StringIO]:
    printed = StringIO()
    return PlainConsole(file=printed, width=200), printed


def test_driver_elsewhere_is_seen_with_its_progress(store: Store) -> None:
    """Stage and counts are read from the store alone."""
    held(store)
    activity = StudyWatch(store, "small", submissions=None).look()
    assert activity.is_running
    assert activity.progress == PROGRESS
    out, printed = console()
    show_activity(activity, console=out)
    assert printed.getvalue().startswith("at work: [00:05] fine-tuning, experts 1/3, failed 1")
    assert "@far, pid" in printed.getvalue()


def test_study_that_nobody_runs_has_its_status_at_once(url: str) -> None:
    """The exit code is that of `status`: 3, as something is missing."""
    out, printed = console()
    assert watch_study("small", store_url=url, submissions=None, console=out) == 3
    assert "experts 0 of 3" in printed.getvalue()


def test_watch_ends_with_the_run(url: str, store: Store) -> None:
    """Lines are printed during the run, and then the status."""
    lease = held(store)
    out, printed = console()
    code = watch_study(
        "small", store_url=url, submissions=None, console=out, sleep=lambda _: lease.release()
    )
    assert code == 3
    lines = printed.getvalue().splitlines()
    assert lines[0].startswith("small: [00:05] fine-tuning, experts 1/3")
    assert lines[1].startswith("study small: experts 0 of 3")


def test_driver_whose_heartbeat_stands_still_is_given_up(store: Store) -> None:
    """Silence is measured by the watcher's clock from its first look; a new beat ends it."""
    lease, clock = held(store), ManualClock()
    watch = StudyWatch(store, "small", submissions=None, clock=clock)
    assert watch.look().is_running
    clock.now_s = STALE_AFTER_S + 1
    dead = watch.look()
    assert not dead.is_running
    assert dead.is_held
    assert "silent for 31 s" in dead.workers()
    lease.beat()
    assert watch.look().is_running


def test_panel_has_trials_speeds_and_failures(url: str, store: Store) -> None:
    """A terminal also shows the reasons of failures."""
    lease = held(store)
    printed = StringIO()
    out = PlainConsole(file=printed, width=120, force_terminal=True)
    watch_study(
        "small", store_url=url, submissions=None, console=out, sleep=lambda _: lease.release()
    )
    assert "trial 0123456789abcdef failed: OSError: disk" in printed.getvalue()
    assert "about 60 s left" in printed.getvalue()


def test_watching_writes_nothing(
    url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with read access is enough."""
    lease = held(store)

    def refuse(*_: object) -> None:
        raise AssertionError("a watcher wrote")

    writing = {name: getattr(LocalStore, name) for name in ("put", "put_if_absent", "delete")}

    def end(_: float) -> None:
        for name, write in writing.items():
            monkeypatch.setattr(LocalStore, name, write)
        lease.release()
        for name in writing:
            monkeypatch.setattr(LocalStore, name, refuse)

    for name in writing:
        monkeypatch.setattr(LocalStore, name, refuse)
    before = {path for path in tmp_path.rglob("*") if "lease" not in path.name}
    out, _ = console()
    assert watch_study("small", store_url=url, submissions=None, console=out, sleep=end) == 3
    assert {path for path in tmp_path.rglob("*") if "lease" not in path.name} == before


def test_progress_of_an_earlier_holder_is_deleted_with_its_lease(store: Store) -> None:
    """A study's folder does not fill with objects that nobody reads."""
    held(store).release()
    held(store).release()
    left = [entry.key for entry in store.list("studies/small/progress-")]
    assert left == ["studies/small/progress-00000002.json"]
