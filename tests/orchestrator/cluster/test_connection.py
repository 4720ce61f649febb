import gc
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from orchestrator.cluster import connection as session
from orchestrator.cluster.connection import (
    WORKER,
    check_cluster,
    create_worker,
    is_node_lost,
    is_own_ray,
    num_slots,
)
from orchestrator.environment.problems import VariableError
from orchestrator.environment.ray_variables import MAX_RESOURCES_VARIABLE


def test_slots_are_bounded_by_the_scarcer_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction of a GPU is one worker's share; cores may run out first."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    assert num_slots(cpu=1, gpu=0) == 8
    assert num_slots(cpu=1, gpu=0.25) == 4
    assert num_slots(cpu=4, gpu=0.25) == 2


def test_smallest_cluster_has_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that is larger than the cluster still gives one worker."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    assert num_slots(cpu=2, gpu=0) == 1


def test_cluster_that_grows_has_the_slots_of_its_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """If only present slots counted, the autoscaler would never add any."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 24.0, "memory": 1.0})
    monkeypatch.setenv(MAX_RESOURCES_VARIABLE, '{"CPU": 16, "GPU": 2}')
    assert num_slots(cpu=2, gpu=0.25) == 8
    assert num_slots(cpu=2, gpu=0) == 12


def test_ray_is_the_drivers_own_unless_an_address_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other driver can join a Ray of one's own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert is_own_ray()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert is_own_ray()
    for address in ("auto", "10.0.0.1:6379"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert not is_own_ray()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a head no time to start."""
    monkeypatch.setattr(session, "FIRST_ANSWER_WAIT_S", 0.3)


@pytest.mark.usefixtures("impatient")
def test_address_without_a_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tries for minutes, and prints each try."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(VariableError, match=rf"^RAY_ADDRESS is '127.0.0.1:{port}'.*no Ray head"):
        check_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "no-such-host.invalid:6379")
    with pytest.raises(VariableError, match="no Ray head answers there"):
        check_cluster()


@pytest.mark.usefixtures("impatient")
def test_another_program_at_the_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's port is a likely mistake."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Ray replaces a loopback address by the machine's own, where the server does not listen.
        head = f"127.0.0.1:{server.server_port}"
        monkeypatch.setattr(session, "canonicalize_bootstrap_address", lambda _: head)
        monkeypatch.setenv("RAY_ADDRESS", head)
        with pytest.raises(VariableError, match=r"no Ray head answers there .*`unset RAY_ADDRESS`"):
            check_cluster()
        server.shutdown()


def test_ray_of_ones_own_needs_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked."""
    asked: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda *at, **_: asked.append(at))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_cluster()
    assert asked == []


def test_worker_is_created_from_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver names a class and never imports it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    worker = create_worker("scripted_worker:Worker", store_url="somewhere", num_cpus=1)
    assert type(worker).__name__ == "Worker"


def test_worker_is_imported_without_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Scanning torch's objects again and again takes a sixth of its import."""
    (tmp_path / "collected_worker.py").write_text(
        "import gc\n"
        "class Worker:\n"
        "    while_imported = gc.isenabled()\n"
        "    def __init__(self, store_url, *, num_cpus):\n"
        "        self.while_created = gc.isenabled()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = create_worker("collected_worker:Worker", store_url="somewhere", num_cpus=1)
    gc.unfreeze()
    assert (worker.while_imported, worker.while_created) == (False, True)


def test_dead_node_is_told_from_a_dead_process() -> None:
    """A lost node is not the fault of the trial that ran on it."""
    node = "The actor died because its node has died. Node Id: 1234"
    process = "The actor is dead because its worker process has died."
    assert is_node_lost(RayActorError(error_msg=node))
    assert is_node_lost(RayActorError(error_msg="drained", preempted=True))
    assert is_node_lost(ActorUnavailableError("rpc error", None))
    assert not is_node_lost(RayActorError(error_msg=process))
    assert not is_node_lost(OSError("its node has died"))
    assert not is_node_lost(None)


def test_lost_head_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no call while its port is open, and none after the connection was closed."""
    monkeypatch.setattr(session, "CHECK_HEAD_EVERY_S", 0.01)
    monkeypatch.setattr(session, "HEAD_LOST_AFTER_S", 0.05)
    reasons: list[str] = []
    closing = threading.Event()
    head = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{head.getsockname()[1]}"
    watch = threading.Thread(target=session._watch_head, args=(address, closing, reasons.append))
    watch.start()
    time.sleep(0.3)
    assert reasons == []
    head.close()
    watch.join(10)
    assert len(reasons) == 1
    assert f"the Ray head at {address} no longer answers" in reasons[0]
    closing.set()
    session._watch_head(address, closing, reasons.append)
    assert len(reasons) == 1


def test_driver_does_not_load_torch() -> None:
    """Importing the cluster package loads Ray and not torch."""
    code = "import sys, orchestrator.cluster.trials; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert WORKER == "workers.process:Worker"


_TERMINATED = """
import os, signal
got = []
signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
from orchestrator.cluster.connection import ray_connection
with ray_connection(print):
    os.kill(os.getpid(), signal.SIGTERM)
print("stops itself", len(got))
"""


def test_sigterm_stays_with_the_driver() -> None:
    """Slurm and Kubernetes send it; Ray's handler would end the process at once."""
    done = subprocess.run(
        [sys.executable, "-c", _TERMINATED],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["stops itself 1"]), done.stderr
