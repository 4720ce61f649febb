"""Divides a cluster anew at each report of a driver, in one actor for all drivers.

The register keeps the reports of the last seconds in memory and writes nothing. A register that is
lost starts empty, and is complete again after the drivers' next reports.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.fair_share import Allotment, Amounts, Demand, allot

EXPIRES_AFTER_S = 15.0
"""A driver without a report for this long counts as dead, and its slots are free."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    demand: Demand
    total: Amounts
    heard_s: float


class FairShareRegister:
    """An actor that answers each report with the study's part; Ray makes its calls one by one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def report(self, driver: str, demand: Demand, total: Amounts) -> Allotment:
        """Records a driver's demand and returns the part that its study may use.

        Args:
            driver: Identifies the driver, as two drivers may run studies of the same name.
            demand: The slots that the study could use now.
            total: The amounts of the cluster as the driver knows them; drivers may disagree about
                how far the cluster grows, and the largest amounts count.
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
