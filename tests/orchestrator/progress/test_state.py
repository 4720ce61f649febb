import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.lease.holder import progress_key
from orchestrator.progress.state import (
    InUse,
    Progress,
    RunningTrial,
    Tally,
    Throughput,
    parse_progress,
    progress_json,
    publishing_progress,
    read_progress,
)
from workers.store.opening import open_store

PROGRESS = Progress(
    elapsed_s=61.5,
    stage="fine-tuning",
    stages=(Tally(name="experts", num_done=2, num_planned=6),),
    axes=(Tally(name="lr", num_done=0, num_planned=30),),
    trials=(RunningTrial(name="mnist_5k lr=0.1", step=3, steps=10, loss=0.5, steps_per_s=2.0),),
    num_trials=1,
    images=(),
    failures=("trial 0123456789abcdef failed: OSError: disk",),
    num_failures=1,
    per_minute={"experts": 1.5},
    in_use=(InUse(name="GPU", used=0.25, total=1.0),),
    seconds_left=90.0,
    tracking="ok",
)


def stages(num_experts: int) -> tuple[Tally, ...]:
    return (Tally(name="experts", num_done=num_experts, num_planned=100),)


def test_published_progress_is_read_back() -> None:
    """Every field comes back, even for a trial without loss and speed."""
    silent = RunningTrial(name="a", step=0, steps=10, loss=None)
    for progress in (PROGRESS, replace(PROGRESS, trials=(silent,), seconds_left=None)):
        assert parse_progress(progress_json(progress)) == progress


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_missing_or_garbled_progress_is_none(content: bytes | None) -> None:
    """A watcher waits for the next report and never fails."""
    assert parse_progress(content) is None


def test_progress_of_another_release_is_none() -> None:
    """A progress without a known field is not used at all."""
    fields = asdict(PROGRESS)
    del fields["stage"]
    assert parse_progress(json.dumps(fields).encode()) is None


def test_control_characters_become_spaces() -> None:
    """A failure's reason may contain control characters of a file name."""
    failures = ("\x1b]0;title\x07 and\nmore",)
    read = parse_progress(progress_json(replace(PROGRESS, failures=failures)))
    assert read is not None
    assert read.failures == (" ]0;title  and more",)


def test_progress_is_read_by_its_generation(tmp_path: Path) -> None:
    """The progress of an earlier driver is not taken for the present one's."""
    store = open_store(str(tmp_path))
    store.put(progress_key("small", 3), progress_json(PROGRESS))
    assert read_progress(store, "small", generation=3) == PROGRESS
    assert read_progress(store, "small", generation=4) is None


def test_throughput_is_that_of_the_last_minutes() -> None:
    """There is no speed before the first artifact, and a slow beginning is forgotten."""
    throughput = Throughput()
    assert throughput.per_minute(stages(0), at_s=0) == {}
    assert throughput.per_minute(stages(0), at_s=30) == {}
    assert throughput.per_minute(stages(1), at_s=60) == {"experts": 1.0}
    assert throughput.per_minute(stages(21), at_s=420) == {}
    assert throughput.per_minute(stages(31), at_s=480) == {"experts": 10.0}


def test_progress_is_published_when_the_run_ends() -> None:
    """A run that is shorter than the interval publishes its end."""
    left: list[bytes] = []
    with publishing_progress(lambda: PROGRESS, write=left.append, every_s=3600):
        pass
    assert left == [progress_json(PROGRESS)]


def test_progress_is_published_every_few_seconds() -> None:
    """A longer run publishes several times."""
    left: list[bytes] = []

    def write(content: bytes) -> None:
        left.append(content)

    with publishing_progress(lambda: PROGRESS, write=write, every_s=0.01):
        while len(left) < 3:
            pass
    assert len(left) >= 4


def test_progress_that_cannot_be_made_is_logged_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A watcher misses some lines; the run goes on."""
    written: list[bytes] = []
    calls: list[int] = []

    def current() -> Progress:
        calls.append(1)
        if len(calls) < 3:
            raise ZeroDivisionError("no speed")
        return PROGRESS

    with publishing_progress(current, write=written.append, every_s=0.01):
        while not written:
            time.sleep(0.01)
    assert parse_progress(written[0]) == PROGRESS
    assert [record.getMessage() for record in caplog.records] == [
        "the progress for `mergesweep watch` failed; the run goes on: ZeroDivisionError: no speed"
    ]
