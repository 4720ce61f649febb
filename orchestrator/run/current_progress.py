"""Assembles the progress of a running session from the ledger, the live state and the cluster."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from orchestrator.cluster.protocol import Cluster, FairShare
from orchestrator.costs.estimate import estimate
from orchestrator.progress.live_state import LiveState
from orchestrator.progress.panel import preparation_line
from orchestrator.progress.pause import pause_s
from orchestrator.progress.state import MAX_LISTED, Progress, Throughput
from orchestrator.run.opened import OpenedStudy

ESTIMATE_EVERY_S = 5.0
"""Least seconds between two estimates of the time left. An estimate looks at every artifact of the
plan, and the panel is drawn 4 times a second."""


class CurrentProgress:
    """The progress of one session at the time of each call."""

    def __init__(
        self,
        opened: OpenedStudy,
        *,
        state: LiveState,
        stages: Collection[str],
        fair_share: FairShare,
        tracking: Callable[[], str],
    ) -> None:
        """Starts the clock of the session.

        Args:
            opened: The study.
            state: The running trials and preparations, and the failures.
            stages: Names of the tallies that the command makes, such as `images`.
            fair_share: Other studies on the cluster.
            tracking: Returns `ok`, or the trouble with MLflow.
        """
        self._opened = opened
        self._state = state
        self._stages = stages
        self._fair_share = fair_share
        self._tracking = tracking
        self._began_s = time.monotonic()
        self._throughput = Throughput()
        self._left_s = 0.0
        self._estimated_s = self._estimate_again_s = -math.inf

    def snapshot(self) -> Progress:
        """Returns the progress as this process knows it, without asking the cluster."""
        ledger, state = self._opened.ledger, self._state
        trials, failures = list(state.trials.values()), list(state.failures)
        has_merges = "merges" in self._stages
        return Progress(
            elapsed_s=time.monotonic() - self._began_s,
            stage=state.stage,
            stages=tuple(each for each in ledger.stages() if each.name in self._stages),
            axes=ledger.axes() if has_merges else (),
            trials=tuple(trials[:MAX_LISTED]),
            num_trials=len(trials),
            images=tuple(preparation_line(each) for each in list(state.preparations.values())),
            failures=tuple(failures[-MAX_LISTED:]),
            num_failures=len(failures),
            per_minute={},
            in_use=(),
            seconds_left=self._seconds_left() if has_merges else None,
            tracking=self._tracking(),
            sharing=self._fair_share.describe(),
        )

    def snapshot_with(self, cluster: Cluster) -> Progress:
        """Returns the progress with speeds, and with the cluster's allocated cores and GPUs.

        Call it from one thread only, as speeds are measured between calls.
        """
        progress = self.snapshot()
        speeds = self._throughput.per_minute(progress.stages, at_s=progress.elapsed_s)
        return replace(progress, per_minute=speeds, in_use=cluster.in_use())

    def _seconds_left(self) -> float | None:
        """Returns the estimated time left, None before the first expert is committed."""
        ledger = self._opened.ledger
        if not any(each.name == "experts" and each.num_done for each in ledger.stages()):
            return None
        now_s = time.monotonic()
        if now_s >= self._estimate_again_s:
            began_s = time.thread_time()
            left = estimate(ledger.committed(), calibration=self._opened.calibration)
            self._left_s = left.wall_s(
                num_slots=max(1, self._fair_share.num_slots),
                extra_s=self._state.extra_seconds_per_trial(),
            )
            took_s = time.thread_time() - began_s
            self._estimated_s = now_s
            self._estimate_again_s = now_s + pause_s(took_s, least_s=ESTIMATE_EVERY_S)
        return max(0.0, self._left_s - (now_s - self._estimated_s))
