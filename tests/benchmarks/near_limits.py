"""Measures how near training, evaluation, merging and a start come to what they consist of.

Everything runs in one process with one thread, without Ray, on a store in a temporary directory.
Each pair takes turns, and the times are CPU seconds, so that other load matters little.
"""

import argparse
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from eval.evaluate import CPU_BATCH_SIZE, evaluate
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.run.coordinator import preparation_jobs
from orchestrator.study.reader import parse_study
from workers.models.pretrained_weights import PACKAGED
from workers.process import Worker
from workers.specs.merge import MergeSpec
from workers.train.trainer import Trainer, create_head
from workers.workspace import Workspace

STUDY = """
name: near-limits
backbone: {{model: {model}, weights: {weights}, image_size: {image_size}}}
tasks:
  suite: embedded8
  names: [mnist_5k, fashion_mnist_5k, font_letters, skimage_textures]
  max_train: 512
  max_test: 64
finetune: {{optimizer: {{name: adam}}, defaults: {{steps: 4, batch_size: 32, lr: 0.0002}}}}
groups: {{count: 1, size: 4}}
merge:
  - {{method: average}}
  - {{method: task_arithmetic}}
  - {{method: dare}}
  - {{method: ties}}
store: {store}
"""
_ROUNDS = 9
_STEPS = 4
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_START = """
import os, pickle, sys, time
began = time.monotonic()
from workers.without_compiler import without_compiler
with without_compiler():
    from workers.process import Worker
imported = time.monotonic()
worker = Worker(sys.argv[1], num_cpus=1)
with open(sys.argv[2], "rb") as file:
    spec = pickle.load(file)
next(worker.run_training(spec, report_every_s=-1))
print(imported - began, time.monotonic() - imported, flush=True)
os._exit(0)
"""
"""Imports what a worker needs, then loads base and images and takes a step; prints both times."""


def rows(model: str, *, image_size: int) -> Iterator[tuple[str, str]]:
    """Yields what was measured, and the figure."""
    with tempfile.TemporaryDirectory() as folder:
        plan = _prepared(model, image_size=image_size, store=Path(folder) / "store")
        store = plan.study.store
        worker = Worker(store, num_cpus=1)
        workspace = Workspace(store, cache_root=Path(folder) / "cache", device=torch.device("cpu"))
        trainer = _trainer(plan, workspace=workspace)
        yield "fine-tuning / forward and backward", f"{_training_ratio(trainer):.3f}"
        for num_images in (64, 512):
            ratio = _evaluation_ratio(plan, num_images=num_images, workspace=workspace)
            yield f"evaluation of {num_images} images / forward", f"{ratio:.3f}"
        for spec in plan.merges.values():
            ratio = _merge_ratio(spec, worker=worker, workspace=workspace)
            yield f"evaluate alone / {spec.method} and evaluate", f"{ratio:.3f}"
        yield from _starts(plan)


def _prepared(model: str, *, image_size: int, store: Path) -> Plan:
    """Makes all artifacts of the study but the merges."""
    text = STUDY.format(
        model=model,
        weights="package" if model in PACKAGED else "none",
        image_size=image_size,
        store=store,
    )
    plan = build_plan(parse_study(text, source="benchmark"))
    worker = Worker(str(store), num_cpus=1)
    for job in preparation_jobs(plan, done=set()):
        made = getattr(worker, job.kind.value)(job.argument)
        if job.kind.reports_progress:
            list(made)
    for trial in plan.trials:
        list(worker.run_training(trial, report_every_s=math.inf))
    return plan


def _trainer(plan: Plan, *, workspace: Workspace) -> Trainer:
    longest = plan.trials[0].longest
    backbone = workspace.base_backbone(longest.base_id)
    num_classes = workspace.num_classes(longest.data_id)
    head = create_head(backbone.num_features, num_classes=num_classes, seed=0, task=longest.task)
    train = workspace.split(longest.data_id, "train")
    return Trainer(spec=longest, backbone=backbone, head=head, train=train, device=workspace.device)


def _training_ratio(trainer: Trainer) -> float:
    """Compares steps with forward and backward on random images."""
    size = trainer.train.image(0).shape[0]
    batch_size = trainer.spec.hyperparameters.batch_size
    images = _random_images(batch_size, size=size)
    labels = torch.randint(trainer.head.out_features, (batch_size,))

    def bare() -> None:
        for _ in range(_STEPS):
            trainer.backbone.module.zero_grad(set_to_none=True)
            trainer.head.zero_grad(set_to_none=True)
            logits = trainer.head(trainer.backbone.model(images))
            functional.cross_entropy(logits, labels).backward()

    def ours() -> None:
        for _ in range(_STEPS):
            trainer.advance()

    return _ratio(bare, ours)


def _evaluation_ratio(plan: Plan, *, num_images: int, workspace: Workspace) -> float:
    """Compares an evaluation with the forward pass of random images in batches of the same size."""
    longest = plan.trials[0].longest
    backbone = workspace.base_backbone(longest.base_id)
    split = workspace.split(longest.data_id, "train").rows(0, num_images)
    num_batches = num_images // CPU_BATCH_SIZE
    images = _random_images(CPU_BATCH_SIZE, size=split.image(0).shape[0])
    head = workspace.expert_head(longest.id)
    backbone.model.eval()

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(num_batches):
            head(backbone.model(images))

    def ours() -> None:
        evaluate(
            backbone.model,
            head,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        )

    return _ratio(bare, ours)


def _merge_ratio(spec: MergeSpec, *, worker: Worker, workspace: Workspace) -> float:
    """Compares the evaluation of a merged model with the whole job, its commit included."""
    backbone = workspace.base_backbone(spec.base_id)
    heads = [(workspace.expert_head(expert.id), expert) for expert in spec.experts]

    def bare() -> None:
        for head, expert in heads:
            evaluate(
                backbone.model,
                head,
                split=workspace.split(expert.data_id, "test"),
                normalization=backbone.normalization,
                device=workspace.device,
            )

    return _ratio(bare, lambda: worker.run_merge(spec))


def _random_images(num: int, *, size: int) -> Tensor:
    images = torch.randn(num, 3, size, size)
    return images.contiguous(memory_format=torch.channels_last)


def _ratio(bare: Callable[[], object], ours: Callable[[], object]) -> float:
    """Returns the median of the CPU time of `bare` over that of `ours`, in turns."""
    bare(), ours()  # loads what is loaded once
    ratios = []
    for _ in range(_ROUNDS):
        times = []
        for function in (bare, ours):
            began_s = time.process_time()
            function()
            times.append(time.process_time() - began_s)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def _starts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Starts a process up to its first step, with and without the files in the page cache."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump(plan.trials[0], file)
        file.flush()
        for name in ("warm", "warm", "cold"):
            if name == "cold":
                if not os.access(_DROP_CACHES, os.W_OK):
                    yield "cold start", "not measured: emptying the page cache needs root"
                    return
                os.sync()
                _DROP_CACHES.write_text("1")
            imports_s, rest_s = _start(plan.study.store, Path(file.name))
            text = f"imports {imports_s:.1f} s, base, images and first step {rest_s:.1f} s"
            yield f"{name} start", text


def _start(store: str, spec: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", _START, store, str(spec)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imports_s, rest_s = map(float, done.stdout.split())
    return imports_s, rest_s


def main() -> None:
    """Prints the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in rows(arguments.model, image_size=arguments.image_size):
        print("| " + " | ".join(row) + " |", flush=True)  # noqa: T201 its output


if __name__ == "__main__":
    main()
