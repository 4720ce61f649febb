"""Measures the memory of a study's trials on a GPU of the cluster, for `gpu: auto`."""

from collections.abc import Callable

from rich.console import Console

from orchestrator.cluster.protocol import Cluster
from orchestrator.costs.calibration import CALIBRATION_S, calibration_request, store_calibration
from orchestrator.costs.gpu_packing import packing_line
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from workers.calibrate.speeds import Calibration

CALIBRATED_TRAININGS = "workers.calibrate.__main__:calibrated_trainings"
"""Loads torch, which the driver never does."""


def measure_memory(
    opened: OpenedStudy,
    *,
    cluster: Cluster,
    console: Console,
    on_cluster_lost: Callable[[str], None],
    function: str = CALIBRATED_TRAININGS,
) -> OpenedStudy:
    """Runs a few steps of each kind of trial alone on a GPU, and stores the calibration.

    Args:
        opened: The study.
        cluster: Where its trials will run.
        console: Where to print.
        on_cluster_lost: Ends the process.
        function: The function that runs on the GPU.

    Returns:
        The study with the proposed share of its trials.

    Raises:
        NoRoomError, ConnectionError: There is no GPU, or no cluster.
    """
    request = calibration_request(opened.plan)
    num_models = len({base.model for base in request.bases.values()})
    say(console, "resources.trial.gpu: auto: measuring the memory of trials, alone on a GPU")
    with cluster.connected(on_cluster_lost):
        fields = cluster.call_on_gpu(
            function,
            request.to_json(),
            CALIBRATION_S * num_models,
            num_cpus=opened.plan.study.resources.trial.cpu,
        )
    store_calibration(opened.folder, Calibration.from_json(fields))
    measured = opened.reopened()
    line = packing_line(measured.plan.study, calibration=measured.calibration)
    say(console, line or "")
    return measured
