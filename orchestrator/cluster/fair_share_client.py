"""A driver's side of sharing a cluster: reports what its study could use, follows what it is told.

On a Ray of this process's own nobody else can be, and nothing is reported: the study's quota is all
that counts.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.cluster.connection import num_slots, total_resources
from orchestrator.cluster.fair_share import Allotment, Amounts, Demand, allotment_text, num_fitting
from orchestrator.cluster.fair_share_register import FairShareRegister
from orchestrator.study.resources import Resources, Share

REPORT_EVERY_S = 3.0
POLL_S = 0.2
NAMESPACE = "mergesweep"
REGISTER_NAME = "register-2"
"""With the version of what drivers and register say to each other."""
_ON_HEAD = {"node:__internal_head__": 0.001}
"""Ray's mark of the head's node: the register goes when the cluster goes, and with no other."""
_FIRST_ANSWER_S = 30.0
"""For the first report, which may have to start the register's process."""
_ANSWER_S = 5.0


class FairShareClient:
    """What a study may hold of the cluster at this time. Thread-safe."""

    def __init__(
        self, study: str, *, resources: Resources, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """Knows of nobody else yet.

        Args:
            study: Its name, which other studies are told.
            resources: What it takes, its priority and its quota.
            note: Is told when other studies come or go, and when this one has to wait or goes on.
        """
        self._study = study
        self._resources = resources
        self._note = note
        self._driver = uuid.uuid4().hex
        self._register: Any = None
        self._is_shared = False
        self._lock = threading.RLock()
        self._share: Share = resources.trial
        self._num_wanted: Callable[[], int] = lambda: 0
        self._use: Callable[[int], None] = lambda _: None
        self._told: Allotment | None = None
        self._trouble = ""
        """Why nothing was ever told."""
        self._num_all = 1
        self.num_slots = 1
        """Of the current share, which the study may hold."""

    def most(self, share: Share) -> int:
        """Returns how many slots of a share it could hold alone on the cluster, at least one."""
        by_quota = num_fitting(share.amounts(), within=self._resources.quota.limits())
        on_cluster = num_slots(cpu=share.cpu, gpu=share.gpu)
        return on_cluster if by_quota is None else max(1, min(on_cluster, by_quota))

    def text(self) -> str:
        """Says who else is on the cluster, and what this study has of it; empty when alone."""
        if self._told is None:
            return self._trouble
        return allotment_text(self._told, num_all=self._num_all)

    def begin(
        self, share: Share, *, num_wanted: Callable[[], int], use: Callable[[int], None]
    ) -> None:
        """Begins a stage of the run.

        Args:
            share: What one slot takes in it.
            num_wanted: Returns how many slots the study could fill; called now and then from a
                thread.
            use: Is told how many slots there are, at once and whenever that was reported.
        """
        with self._lock:
            self._share, self._num_wanted, self._use = share, num_wanted, use
            self._report()

    def wait_for_slot(self, stopping: threading.Event) -> bool:
        """Waits until the study may hold a slot; False if the run is stopped."""
        while self.num_slots < 1:
            if stopping.wait(POLL_S):
                return False
        return not stopping.is_set()

    @contextlib.contextmanager
    def reporting(self, *, is_shared: bool) -> Iterator[None]:
        """Reports for the length of a `with` block, on a cluster on which others may be."""
        self._is_shared = is_shared
        if not is_shared:
            yield
            return
        closing = threading.Event()

        def report() -> None:
            while not closing.wait(REPORT_EVERY_S):
                with self._lock:
                    self._report()

        thread = threading.Thread(target=report, name="sharing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()
            self._sign_off()

    def _report(self) -> None:
        """Reports and takes the answer; without one the last answer stays."""
        before = self._told
        if self._is_shared:
            try:
                self._told = self._answer()
            except RayError as error:
                self._trouble = f"knows nothing of other studies here ({type(error).__name__})"
        self._num_all = self.most(self._share)
        if _terms(self._told) != _terms(before):
            self._note(self.text() or "no other study is on the cluster now")
        told = self._told.num_slots if self._told else self._num_all
        self.num_slots = min(self._num_all, told)
        self._use(self.num_slots)

    def _answer(self) -> Allotment:
        timeout_s = _ANSWER_S if self._told else _FIRST_ANSWER_S
        self._register = self._register or _find_register()
        try:
            reference = self._register.report.remote(self._driver, self._demand(), _total())
            answer: Allotment = ray.get(reference, timeout=timeout_s)
        except RayError:
            self._register = None  # it may be another one by the next report
            raise
        return answer

    def _demand(self) -> Demand:
        return Demand(
            study=self._study,
            priority=self._resources.priority,
            share=self._share.amounts(),
            quota=self._resources.quota.limits(),
            num_wanted=self._num_wanted(),
        )

    def _sign_off(self) -> None:
        if self._register is not None:
            with contextlib.suppress(RayError):
                ray.get(self._register.sign_off.remote(self._driver), timeout=_ANSWER_S)


def _terms(told: Allotment | None) -> tuple[bool, frozenset[tuple[str, int]]]:
    """Returns what is worth a line when it changes: whether a study waits, and who else is here."""
    if told is None or not told.neighbours:
        return False, frozenset()
    return told.num_slots == 0, frozenset((each.study, each.priority) for each in told.neighbours)


def _total() -> Amounts:
    total = total_resources()
    return {"cpu": total.get("CPU", 0), "gpu": total.get("GPU", 0)}


def _find_register() -> Any:  # noqa: ANN401 Ray's actors are untyped here
    """Returns the cluster's register, which is started if there is none."""
    return (
        ray.remote(FairShareRegister)
        .options(
            name=REGISTER_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            resources=_ON_HEAD,
        )
        .remote()
    )
