"""Runs a study file as `mergesweep run` does, with the committing worker and without MLflow."""

import sys
import threading
from pathlib import Path

from orchestrator.cli.signals import stopping_signals
from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.run.opened import open_study
from orchestrator.run.session import Session
from orchestrator.study.reader import parse_study

path = Path(sys.argv[1])
text = path.read_text()
stopping = threading.Event()
with stopping_signals(stopping.set):
    Session(
        opened=open_study(parse_study(text, source=str(path)), text=text),
        tracker=None,
        stopping=stopping,
        on_cluster_lost=sys.exit,
        cluster=RayCluster(worker="committing_worker:Worker"),
    ).run(PlainConsole())
