"""A finished study of any size whose artifacts were never made: for tests and benchmarks of views.

The scores differ by task, setting and method, so that some experts and merges are best and worst.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.report.page import render_report
from orchestrator.results.study_results import StudyResults
from workers.artifacts.manifests import FileEntry, Manifest
from workers.artifacts.metrics import ExpertMetrics, MergeMetrics, TrainingMetrics
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

NUM_EXAMPLES = 200
NUM_CURVE_POINTS = 20
_STARTED_S = 1_700_000_000.0
_SECONDS = {"trial": 2.0, "merge": 0.5, "evaluate": 1.5}


def made_ledger(plan: Plan) -> Ledger:
    """Returns the ledger of a study in which every expert and merge is committed."""
    draw = random.Random(0)
    experts = {
        spec.id: _expert(spec, draw=draw, at_s=_STARTED_S + place)
        for place, spec in enumerate(plan.experts.values())
    }
    merges = [
        _merge(spec, draw=draw, at_s=_STARTED_S + len(experts) + place)
        for place, spec in enumerate(plan.merges.values())
    ]
    return Ledger(plan, manifests=[*experts.values(), *merges])


def page_of(ledger: Ledger) -> str:
    """Returns the report of a study of which nothing is missing."""
    return render_report(
        study="small",
        results=StudyResults.of(ledger.committed()),
        holes=(),
        datasets={},
        facts={},
        study_yaml="",
    )


def _expert(spec: ExpertSpec, *, draw: random.Random, at_s: float) -> Manifest:
    steps = spec.hyperparameters.steps
    curve = [
        (max(1, steps * place // NUM_CURVE_POINTS), 2.0 * math.exp(-place / 8) + draw.random() / 10)
        for place in range(1, NUM_CURVE_POINTS + 1)
    ]
    metrics = ExpertMetrics(
        training=TrainingMetrics(
            train_loss=curve[-1][1],
            train_curve=tuple(dict(curve).items()),
            num_classes=10,
            steps_taken=steps,
        ),
        test=_sums(draw.uniform(0.5, 0.95)),
        base=_sums(draw.uniform(0.1, 0.3)),
    )
    return _manifest(spec, kind="expert", metrics=metrics.to_json(), at_s=at_s)


def _merge(spec: MergeSpec, *, draw: random.Random, at_s: float) -> Manifest:
    members = (*spec.experts, *spec.held_out)
    metrics = MergeMetrics(
        tasks={expert.task: _sums(draw.uniform(0.15, 0.8)) for expert in members}, coverage=1.0
    )
    return _manifest(spec, kind="merge", metrics=metrics.to_json(), at_s=at_s)


def _sums(accuracy: float) -> TaskSums:
    return TaskSums(
        num_examples=NUM_EXAMPLES,
        num_correct=round(NUM_EXAMPLES * accuracy),
        loss_sum=NUM_EXAMPLES * 2.5 * (1 - accuracy),
    )


def _manifest(
    spec: ExpertSpec | MergeSpec, *, kind: str, metrics: Mapping[str, Any], at_s: float
) -> Manifest:
    file = FileEntry(name="expert.safetensors", size_bytes=4000, sha256="0" * 64)
    return Manifest(
        kind=kind,
        id=spec.id,
        version=1,
        spec={},
        inputs={},
        files=(file,) if kind == "expert" else (),
        attempt="0" * 16,
        outcome="done",
        metrics=metrics,
        seconds=_SECONDS,
        created_at_s=at_s,
        code_version="0.1.0+0123456789abcdef",
    )
