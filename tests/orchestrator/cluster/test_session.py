import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from orchestrator.cluster.session import WORKER, create_worker, is_node_lost, num_slots


def test_slots_are_bounded_by_the_scarcer_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction of a GPU counts as one worker's share; processors may run out first."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    assert num_slots(cpu=1, gpu=0) == 8
    assert num_slots(cpu=1, gpu=0.25) == 4
    assert num_slots(cpu=4, gpu=0.25) == 2


def test_smallest_cluster_has_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the share is larger than the cluster, one worker still is planned."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    assert num_slots(cpu=2, gpu=0) == 1


def test_worker_is_created_from_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver names a class and never imports it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    worker = create_worker("scripted_worker:Worker", store_url="somewhere", num_cpus=1)
    assert type(worker).__name__ == "Worker"


def test_dead_node_is_told_from_a_dead_process() -> None:
    """What took a whole node away is no fault of the trial that ran there."""
    node = "The actor died because its node has died. Node Id: 1234"
    process = "The actor is dead because its worker process has died."
    assert is_node_lost(RayActorError(error_msg=node))
    assert is_node_lost(RayActorError(error_msg="drained", preempted=True))
    assert is_node_lost(ActorUnavailableError("rpc error", None))
    assert not is_node_lost(RayActorError(error_msg=process))
    assert not is_node_lost(OSError("its node has died"))
    assert not is_node_lost(None)


def test_driver_does_not_load_what_its_worker_needs() -> None:
    """Importing the cluster package loads Ray and not torch; the worker's name is enough."""
    code = "import sys, orchestrator.cluster.trials; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert WORKER == "workers.process:Worker"
