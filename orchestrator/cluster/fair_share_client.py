"""Reports a study's demand to the cluster's register, and follows the register's answers.

A Ray that this process has started itself has no other study. Nothing is reported then, and only
the study's own quota limits it.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.cluster.connection import largest_node, num_slots, total_resources
from orchestrator.cluster.fair_share import Allotment, Amounts, Demand, allotment_text, num_fitting
from orchestrator.cluster.fair_share_register import FairShareRegister
from orchestrator.environment.problems import NoRoomError
from orchestrator.study.resources import Resources, Share

REPORT_EVERY_S = 3.0
POLL_S = 0.2
NAMESPACE = "mergesweep"
REGISTER_NAME = "register-1"
"""The actor's name. The number is the version of the objects that drivers and register exchange."""
_ON_HEAD = {"node:__internal_head__": 0.001}
"""Ray's label of the head's node. There the register lives as long as the cluster does."""
_FIRST_ANSWER_S = 30.0
"""The timeout of the first report, which may have to start the register's process."""
_ANSWER_S = 5.0


class FairShareClient:
    """A driver's side of the fair share of a cluster: reports demand, knows the slots. Thread-safe.

    Implements `orchestrator.cluster.protocol.FairShare`.
    """

    def __init__(
        self,
        study: str,
        *,
        resources: Resources,
        is_shared: bool,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Creates a client that has reported nothing yet.

        Args:
            study: The study's name, which other studies see.
            resources: The study's shares, priority and quota.
            is_shared: Whether other studies may be on the cluster.
            note: Is called when other studies come or go, and when this one waits or goes on.
        """
        self._study = study
        self._resources = resources
        self._is_shared = is_shared
        self._note = note
        self._driver = uuid.uuid4().hex
        self._register: Any = None
        self._lock = threading.RLock()
        self._share: Share = resources.trial
        self._num_wanted: Callable[[], int] = lambda: 0
        self._set_slots: Callable[[int], None] = lambda _: None
        self._allotment: Allotment | None = None
        """The last answer of the register."""
        self._trouble = ""
        """Why the register has never answered."""
        self._max_slots = 1
        self.num_slots = 1

    def max_slots(self, share: Share) -> int:
        """Returns the slots that the study could use if it were alone, at least 1."""
        by_quota = num_fitting(share.amounts(), within=self._resources.quota.limits())
        on_cluster = num_slots(cpu=share.cpu, gpu=share.gpu)
        return on_cluster if by_quota is None else max(1, min(on_cluster, by_quota))

    def describe(self) -> str:
        """Returns a text on the other studies and the study's part; empty if it is alone."""
        if self._allotment is None:
            return self._trouble
        return allotment_text(self._allotment, max_slots=self._max_slots)

    def begin_stage(
        self, share: Share, *, num_wanted: Callable[[], int], set_slots: Callable[[int], None]
    ) -> None:
        """Begins a stage of the run.

        Args:
            share: The cores and GPUs of one slot in this stage.
            num_wanted: Returns the slots that the study could fill; called from a thread.
            set_slots: Is called with the number of slots, now and after every report.
        """
        with self._lock:
            self._share, self._num_wanted, self._set_slots = share, num_wanted, set_slots
            self._report()

    def wait_for_slot(self, stopping: threading.Event) -> bool:
        """Waits until the study may use a slot; returns False if the run is stopped."""
        while self.num_slots < 1:
            if stopping.wait(POLL_S):
                return False
        return not stopping.is_set()

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Reports every few seconds for the length of a `with` block, if there may be others."""
        if not self._is_shared:
            yield
            return
        closing = threading.Event()

        def report() -> None:
            while not closing.wait(REPORT_EVERY_S):
                with self._lock:
                    self._report()

        thread = threading.Thread(target=report, name="fair-share", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()
            self._sign_off()

    def check_room(self, share: Share) -> None:
        """Checks that a node has a trial's share; only says so where a node may still join.

        Raises:
            NoRoomError: The share is larger than this machine, which will not grow.
        """
        node = largest_node()
        if share.cpu <= node["CPU"] and share.gpu <= node["GPU"]:
            return
        wanted = f"resources.trial gives each worker {share.cpu:g} cores and {share.gpu:g} GPUs"
        found = f"{node['CPU']:g} cores and {node['GPU']:g} GPUs"
        if not self._is_shared:
            raise NoRoomError(
                f"{wanted}, but this machine has {found}; change resources.trial, or set "
                "RAY_ADDRESS to the head of a cluster"
            )
        self._note(f"{wanted}, and no node has that much now ({found}): trials wait for one")

    def _report(self) -> None:
        """Sends a report and follows the answer; without one the last answer stays in force."""
        before = self._allotment
        if self._is_shared:
            try:
                self._allotment = self._ask_register()
            except RayError as error:
                self._trouble = (
                    f"cannot find out about other studies on the cluster ({type(error).__name__})"
                )
        self._max_slots = self.max_slots(self._share)
        if _notable(self._allotment) != _notable(before):
            self._note(self.describe() or "no other study is on the cluster now")
        allotted = self._allotment.num_slots if self._allotment else self._max_slots
        self.num_slots = min(self._max_slots, allotted)
        self._set_slots(self.num_slots)

    def _ask_register(self) -> Allotment:
        timeout_s = _ANSWER_S if self._allotment else _FIRST_ANSWER_S
        self._register = self._register or _find_register()
        try:
            reference = self._register.report.remote(self._driver, self._demand(), _total())
            answer: Allotment = ray.get(reference, timeout=timeout_s)
        except RayError:
            self._register = None  # the next report looks it up again: Ray may have restarted it
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


def _notable(allotment: Allotment | None) -> tuple[bool, frozenset[tuple[str, int]]]:
    """Returns the facts whose change is worth a note: whether the study waits, and the others."""
    if allotment is None or not allotment.neighbours:
        return False, frozenset()
    others = frozenset((each.study, each.priority) for each in allotment.neighbours)
    return allotment.num_slots == 0, others


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
