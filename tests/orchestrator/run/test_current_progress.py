"""The progress at a moment, from a real ledger and without a cluster."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.costs.estimate import estimate
from orchestrator.plan.plan import Plan
from orchestrator.progress.live_state import LiveState
from orchestrator.record.committed import Committed
from orchestrator.record.ledger import Ledger
from orchestrator.record.study_state import StudyState
from orchestrator.run.current_progress import CurrentProgress
from workers.artifacts.manifests import Manifest

Make = Callable[..., Manifest]
NUM_SLOTS = 2


class CountingLedger(Ledger):
    """Counts the copies that take time in proportion to the study."""

    num_copies = 0

    def committed(self) -> Committed:
        """Counts a copy."""
        self.num_copies += 1
        return super().committed()

    def state(self) -> StudyState:
        """Counts a copy."""
        self.num_copies += 1
        return super().state()


def progress_of(ledger: Ledger, state: LiveState) -> CurrentProgress:
    """Makes the progress of a study alone on two slots."""
    opened: Any = SimpleNamespace(ledger=ledger, calibration=None)
    fair_share: Any = SimpleNamespace(num_slots=NUM_SLOTS, describe=lambda: "")
    return CurrentProgress(
        opened,
        state=state,
        stages=("images", "experts", "merges"),
        fair_share=fair_share,
        tracking=lambda: "ok",
    )


def test_snapshots_copy_nothing_between_two_estimates(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """The panel is drawn four times a second, after whatever was committed by then."""
    plan = make_plan()
    ledger = CountingLedger(plan, manifests=[])
    progress = progress_of(ledger, LiveState())
    assert progress.snapshot().seconds_left is None
    assert ledger.num_copies == 0
    for manifest in all_manifests(plan):
        ledger.add(manifest)
        shown = progress.snapshot()
    assert ledger.num_copies == 1
    assert {each.name: each.num_done for each in shown.stages} == {
        "images": 0,
        "experts": 3,
        "merges": 3,
    }


def test_time_left_counts_what_trials_hold_their_workers_beyond_their_work(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """With trials of milliseconds it is nearly all of the time."""
    plan = make_plan()
    first = next(iter(plan.experts.values()))
    ledger = Ledger(plan, manifests=[expert_manifest(first, seconds=0.001)])
    state = LiveState()
    state.extra_s.extend([30.0, 40.0, 900.0])
    work_s = estimate(ledger.committed(), calibration=None).wall_s(num_slots=NUM_SLOTS)
    shown = progress_of(ledger, state).snapshot()
    assert shown.seconds_left == pytest.approx(work_s + 2 * 40.0 / NUM_SLOTS, abs=1.0)
