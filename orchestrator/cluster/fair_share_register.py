"""Keeps which studies run on a cluster: one process of it, to which every driver reports.

Its state is what was reported in the last seconds. A register that is lost starts empty and knows
all of it again after the next reports; nothing is written anywhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.fair_share import Allotment, Amounts, Demand, allot

EXPIRES_AFTER_S = 15.0
"""A driver that has not reported for so long is dead, and what it held is free."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    demand: Demand
    total: Amounts
    heard_s: float


class FairShareRegister:
    """Answers every report with what the study may hold; calls come one after another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def report(self, driver: str, demand: Demand, total: Amounts) -> Allotment:
        """Notes what a driver could use, and returns what it may hold.

        Args:
            driver: Tells drivers apart; two of them may run studies of one name.
            demand: What its study could use now.
            total: What the cluster has, as far as this driver knows; drivers may know differently
                how far it grows.
        """
        now_s = self._clock()
        self._entries[driver] = _Entry(demand=demand, total=total, heard_s=now_s)
        for each, entry in list(self._entries.items()):
            if now_s - entry.heard_s > EXPIRES_AFTER_S:
                del self._entries[each]
        demands = [entry.demand for entry in self._entries.values()]
        return allot(demands, total=self._total())[list(self._entries).index(driver)]

    def sign_off(self, driver: str) -> None:
        """Forgets a driver that has ended."""
        self._entries.pop(driver, None)

    def _total(self) -> Amounts:
        total: dict[str, float] = {}
        for entry in self._entries.values():
            for name, amount in entry.total.items():
                total[name] = max(total.get(name, 0), amount)
        return total
