"""Runs a study file as `mergesweep run` does, with the committing worker and without MLflow."""

import sys
from pathlib import Path

from orchestrator.run.signals import stop_on_signals
from rich.console import Console

from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.run.opened import open_study
from orchestrator.run.session import Session
from orchestrator.study.reader import parse_study

path = Path(sys.argv[1])
text = path.read_text()
with stop_on_signals() as stopping:
    Session(
        opened=open_study(parse_study(text, source=str(path)), text=text),
        tracker=None,
        stopping=stopping,
        on_cluster_lost=sys.exit,
        cluster=RayCluster(worker="committing_worker:Worker"),
    ).run(Console())
