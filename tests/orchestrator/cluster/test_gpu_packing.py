"""A real study on a simulated GPU: measured, packed, and retried when its memory is too small."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.run.measure_memory import measure_memory
from orchestrator.run.opened import open_study
from orchestrator.run.session import Session
from orchestrator.study.reader import parse_study

pytestmark = [pytest.mark.cluster, pytest.mark.large]
HERE = Path(__file__).parent
STUDY = {
    "name": "packed",
    "backbone": {"model": "test_efficientnet", "weights": "none", "image_size": 32},
    "tasks": {"names": ["mnist_5k", "bluemarble_regions"], "max_train": 40, "max_test": 48},
    "finetune": {
        "defaults": {"steps": 3, "lr": 0.01, "batch_size": 8},
        "axes": {"batch_size": [8, 96]},
    },
    "groups": {"count": 1, "size": 2},
    "merge": [{"method": "average"}],
    "resources": {"trial": {"cpu": 0.5, "gpu": "auto"}, "merge": {"cpu": 0.5}},
}


@pytest.fixture
def gpu_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starts a cluster that believes it has a GPU, and names it in RAY_ADDRESS."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(map(str, (HERE, HERE.parents[1] / "support", HERE.parents[2]))),
    )
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False},
    )
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield
    finally:
        if ray.is_initialized():
            ray.shutdown()
        cluster.shutdown()


@pytest.mark.usefixtures("gpu_cluster")
def test_trials_get_the_memory_that_they_need(tmp_path: Path) -> None:
    """Small batches share the GPU four at a time; a batch too large for all of it is split.

    The calibration measures the small batches and runs out of memory on the large ones. A trial of
    these is tried with twice the share, with the whole GPU, and then with half of its batch. Its
    manifest says so, and no other manifest has the field.
    """
    text = yaml.safe_dump({**STUDY, "store": str(tmp_path / "store")})
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    console, cluster = PlainConsole(), RayCluster(worker="limited_worker:Worker")
    measured = measure_memory(
        opened,
        cluster=cluster,
        console=console,
        on_cluster_lost=sys.exit,
        function="limited_worker:calibrated_trainings",
    )
    assert opened.plan.study.resources.trial.gpu == 1
    assert measured.plan.study.resources.trial.gpu == 0.25
    assert list(measured.plan.experts) == list(opened.plan.experts)
    Session(
        opened=measured,
        tracker=None,
        stopping=threading.Event(),
        on_cluster_lost=sys.exit,
        cluster=cluster,
    ).run(console)
    assert not measured.ledger.state().holes()
    found = {
        (each.spec["task"], each.spec["batch_size"]): dict(each.execution)
        for each in measured.ledger.committed().experts.values()
    }
    tasks = STUDY["tasks"]["names"]  # type: ignore[index]
    assert found == {
        **{(task, 8): {} for task in tasks},
        **{(task, 96): {"gpu": 1.0, "out_of_memory": 3, "micro_batch": 48} for task in tasks},
    }
