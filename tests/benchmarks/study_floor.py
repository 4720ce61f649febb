"""Measures how long a finished study's training, evaluation and merging take alone.

One process per core, each with one thread, takes one trial or merge after another. Models and
images are loaded before the clock starts. Nothing is scheduled, sent, stored or published. It takes
studies whose heads are trained, and methods that read no data and make one model.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eval.evaluate import evaluate, evaluate_head
from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge
from orchestrator.plan.plan import Plan
from orchestrator.run.opened import open_study
from orchestrator.study.reader import parse_study
from workers.freed_memory import keep_freed_memory
from workers.sampling.determinism import compute_deterministically
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.train.trainer import Trainer, create_head
from workers.workspace import Workspace

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Wall times of a study's computing, on all cores."""

    training_s: float
    """Steps and evaluations of all trials."""
    merging_s: float
    """Merges and their evaluations."""
    cpu_s: float
    """CPU time of all processes in both."""

    @property
    def wall_s(self) -> float:
        """Both together."""
        return self.training_s + self.merging_s


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What the processes share."""

    barrier: Barrier
    """Is passed when all are ready, when all have trained, and when all have merged."""
    num_trials: "Synchronized[int]"
    """Trials that were taken."""
    num_merges: "Synchronized[int]"
    cpu_s: "Synchronized[float]"


def measure(study: Path, *, store: str | None = None) -> Floor:
    """Computes everything of a finished study once more.

    Args:
        study: The study's file.
        store: The store that has its artifacts; by default, the file's own.
    """
    num_processes = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    shared = _Shared(
        barrier=context.Barrier(num_processes + 1),
        num_trials=context.Value("i", 0),
        num_merges=context.Value("i", 0),
        cpu_s=context.Value("d", 0.0),
    )
    with tempfile.TemporaryDirectory() as cache:
        arguments = (study, store, Path(cache), shared)
        processes = [context.Process(target=_compute, args=arguments) for _ in range(num_processes)]
        for process in processes:
            process.start()
        times = []
        for _ in range(3):
            shared.barrier.wait()
            times.append(time.monotonic())
        for process in processes:
            process.join()
    began, trained, ended = times
    return Floor(training_s=trained - began, merging_s=ended - trained, cpu_s=shared.cpu_s.value)


def _compute(study: Path, store: str | None, cache: Path, shared: _Shared) -> None:
    """Takes trials and then merges, until the counters say that none is left."""
    try:
        keep_freed_memory()
        torch.set_num_threads(1)
        compute_deterministically()
        plan, workspace = _opened(study, store=store, cache=cache)
        trials, merges = list(plan.trials), list(plan.merges.values())
        _load(plan, workspace=workspace)
        shared.barrier.wait()
        began_s = time.process_time()
        while (number := _next(shared.num_trials)) < len(trials):
            _train(trials[number], workspace=workspace)
        shared.barrier.wait()
        while (number := _next(shared.num_merges)) < len(merges):
            _merge(merges[number], workspace=workspace)
        with shared.cpu_s.get_lock():
            shared.cpu_s.value += time.process_time() - began_s
        shared.barrier.wait()
    except BaseException:
        shared.barrier.abort()  # the others would wait for ever
        raise


def _next(counter: "Synchronized[int]") -> int:
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1


def _opened(study: Path, *, store: str | None, cache: Path) -> tuple[Plan, Workspace]:
    text = study.read_text()
    parsed = parse_study(text, source=str(study))
    if store is not None:
        parsed = parsed.model_copy(update={"store": store})
    opened = open_study(parsed, text=text)
    assert opened.is_finished(), f"{study} is not finished: run it first"
    device = torch.device("cpu")
    return opened.plan, Workspace(opened.store_url, cache_root=cache, device=device)


def _load(plan: Plan, *, workspace: Workspace) -> None:
    """Loads the base, its features, all images and experts, and takes two steps."""
    for trial in plan.trials:
        workspace.base_features(trial.longest.base_id, trial.longest.data_id)
    for merge_ in plan.merges.values():
        for expert in merge_.experts:
            workspace.expert_tensors(expert.id)
    trainer = _trainer(plan.trials[0], workspace=workspace)
    trainer.advance()
    trainer.advance()


def _trainer(spec: TrialSpec, *, workspace: Workspace) -> Trainer:
    longest = spec.longest
    backbone = workspace.base_backbone(longest.base_id)
    head = create_head(
        backbone.num_features,
        num_classes=workspace.num_classes(longest.data_id),
        seed=longest.hyperparameters.seed,
        task=longest.task,
    )
    train = workspace.split(longest.data_id, "train")
    return Trainer(spec=longest, backbone=backbone, head=head, train=train, device=workspace.device)


def _train(spec: TrialSpec, *, workspace: Workspace) -> None:
    test = workspace.split(spec.longest.data_id, "test")
    features = workspace.base_features(spec.longest.base_id, spec.longest.data_id)
    trainer = _trainer(spec, workspace=workspace)
    for steps in spec.snapshots:
        while trainer.step < steps:
            trainer.advance()
        _evaluate(trainer.backbone, trainer.head, test=test, workspace=workspace)
        evaluate_head(trainer.head, features=features, labels=test.labels)
        trainer.set_training_mode()


def _merge(spec: MergeSpec, *, workspace: Workspace) -> None:
    backbone = workspace.base_backbone(spec.base_id)
    destination = backbone.module.state_dict()
    merged = merge(
        workspace.base_tensors(spec.base_id),
        [workspace.expert_tensors(expert.id) for expert in spec.experts],
        options=MergeOptions(params=parse_params(spec.method, spec.params), seed=spec.seed),
    )
    with torch.no_grad():
        for name, tensor in merged:
            destination[name].copy_(tensor)
    for expert in spec.experts:
        test = workspace.split(expert.data_id, "test")
        _evaluate(backbone, workspace.expert_head(expert.id), test=test, workspace=workspace)


def _evaluate(backbone: Any, head: Any, *, test: Any, workspace: Workspace) -> None:  # noqa: ANN401 passed on
    evaluate(
        backbone.model,
        head,
        split=test,
        normalization=backbone.normalization,
        device=workspace.device,
    )


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--store", help="the store, if it is not the file's own")
    arguments = parser.parse_args()
    floor = measure(arguments.study, store=arguments.store)
    print(  # noqa: T201 its output
        f"training {floor.training_s:.1f} s, merging {floor.merging_s:.1f} s, "
        f"together {floor.wall_s:.1f} s; CPU time {floor.cpu_s:.1f} s"
    )


if __name__ == "__main__":
    main()
