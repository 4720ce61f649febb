"""Runs a study as a capable user does without mergesweep: Ray Tune, MLflow's callback, torch.save.

Every expert and every merge of a setting is a Tune trial with a function trainable. Weights go to
S3 with `torch.save`, experts are merged one by one in plain loops, and `DataLoader`s feed training
and evaluation. `study_contest.py` runs this script beside `mergesweep run`.

The plan of the study comes from mergesweep, and so does what makes the results comparable: the
images, their order in the batches, the weights of new heads, and DARE's random numbers. The script
takes studies of one base with Adam at a constant learning rate, and the methods of `MERGES`.
"""

import argparse
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import ray
import timm
import torch
from naive_merging import MERGES, merged
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eval.images.decoding import decode_images
from eval.open_images import open_images
from merge.catalogue import parse_params
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.study.reader import parse_study
from workers.models.fitted_weights import fit_weights
from workers.models.pretrained_weights import packaged_path
from workers.sampling.batches import batch_positions, training_subset
from workers.sampling.data_selection import select_images
from workers.specs.data import DataJob
from workers.specs.hyperparameters import Hyperparameters
from workers.train.trainer import create_head

EVALUATION_BATCH = 64
Weights = dict[str, Tensor]


class Bucket:
    """A prefix of a bucket, for `torch.save` and `torch.load`."""

    def __init__(self, name: str, prefix: str) -> None:
        """Connects with the environment's credentials and `AWS_ENDPOINT_URL`."""
        self._client = boto3.client("s3")
        self._name = name
        self._prefix = prefix

    def save(self, key: str, value: object) -> None:
        """Writes a value."""
        stream = io.BytesIO()
        torch.save(value, stream)
        self._client.put_object(
            Bucket=self._name, Key=f"{self._prefix}/{key}", Body=stream.getvalue()
        )

    def load(self, key: str) -> Any:  # noqa: ANN401 any value that was saved
        """Reads a value."""
        answer = self._client.get_object(Bucket=self._name, Key=f"{self._prefix}/{key}")
        return torch.load(io.BytesIO(answer["Body"].read()), weights_only=True)


@ray.remote(num_cpus=1)
def prepare_images(job: DataJob, *, bucket: tuple[str, str]) -> None:
    """Decodes and resizes a task's images and saves them."""
    sources = open_images(job.source)
    sizes = {name: len(source.labels) for name, source in sources.items()}
    images = {}
    for split, selected in select_images(sizes, spec=job.spec).items():
        source = sources[selected.source]
        chunks = decode_images(
            source,
            selected.positions,
            image_size=job.spec.image_size,
            channels=job.source.task.channels,
            num_threads=1,
        )
        labels = torch.from_numpy(source.labels[selected.positions])
        images[split] = (torch.from_numpy(np.concatenate(list(chunks))), labels)
    Bucket(*bucket).save(f"images/{job.spec.task}", images)


def create_model(name: str, weights: Weights) -> nn.Module:
    """Returns a timm model without classifier."""
    model = timm.create_model(name, pretrained=False, num_classes=0)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last)


def dataset(images: Tensor, labels: Tensor, *, model: nn.Module) -> TensorDataset:
    """Returns normalized images in three channels, with their labels."""
    config: Any = model.default_cfg
    mean, std = (torch.tensor(config[key]) * 255 for key in ("mean", "std"))
    inputs = ((images.float() - mean) / std).permute(0, 3, 1, 2)
    return TensorDataset(inputs, labels)


@torch.inference_mode()
def evaluate(model: nn.Module, head: nn.Module, images: TensorDataset) -> dict[str, float]:
    """Returns accuracy and mean cross-entropy."""
    model.eval()
    correct, loss = 0, 0.0
    for inputs, labels in DataLoader(images, batch_size=EVALUATION_BATCH):
        logits = head(model(inputs.contiguous(memory_format=torch.channels_last)))
        correct += int((logits.argmax(dim=1) == labels).sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return {"accuracy": correct / len(images), "loss": loss / len(images)}


def finetune(config: dict[str, Any]) -> None:
    """Fine-tunes the base on one task and saves the expert; a function trainable."""
    torch.set_num_threads(1)
    bucket, point = Bucket(*config["bucket"]), Hyperparameters(**config["point"])
    images = bucket.load(f"images/{config['task']}")
    model = create_model(config["model"], bucket.load("base"))
    head = create_head(
        model.num_features,
        num_classes=config["num_classes"],
        seed=point.seed,
        task=config["task"],
    )
    subset = training_subset(len(images["train"][1]), data_ratio=point.data_ratio, seed=point.seed)
    batches = [
        batch_positions(subset, step=step, batch_size=point.batch_size, seed=point.seed)
        for step in range(point.steps)
    ]
    train = DataLoader(dataset(*images["train"], model=model), batch_sampler=batches)
    optimizer = torch.optim.Adam(
        [*model.parameters(), *head.parameters()],
        lr=point.lr,
        betas=(config["momentum"], 0.999),
        fused=True,
    )
    model.train()
    for module in model.modules():
        if config["freeze_batch_norm"] and isinstance(module, nn.BatchNorm2d):
            module.eval()
    for inputs, labels in train:
        optimizer.zero_grad()
        logits = head(model(inputs.contiguous(memory_format=torch.channels_last)))
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
    scores = evaluate(model, head, dataset(*images["test"], model=model))
    bucket.save(
        f"experts/{config['setting']}/{config['task']}",
        {"model": model.state_dict(), "head": head.state_dict()},
    )
    tune.report({"train_loss": loss.item(), **scores})


def merge_setting(config: dict[str, Any]) -> None:
    """Merges all groups of a setting with one method and evaluates them; a function trainable."""
    torch.set_num_threads(1)
    bucket = Bucket(*config["bucket"])
    base = bucket.load("base")
    model = create_model(config["model"], base)
    tasks = sorted({task for group in config["groups"].values() for task in group})
    experts = {task: bucket.load(f"experts/{config['setting']}/{task}") for task in tasks}
    heads, tests = {}, {}
    for task, expert in experts.items():
        weight, bias = expert["head"]["weight"], expert["head"]["bias"]
        heads[task] = nn.Linear(weight.shape[1], weight.shape[0])
        heads[task].load_state_dict({"weight": weight, "bias": bias})
        tests[task] = dataset(*bucket.load(f"images/{task}")["test"], model=model)
    scores = {}
    for name, group in config["groups"].items():
        members = [experts[task]["model"] for task in group]
        merge = MERGES[config["method"]]
        seed = config["seeds"][name]
        model.load_state_dict(merged(base, members, merge=merge, config=config, seed=seed))
        scores[name] = {task: evaluate(model, heads[task], tests[task]) for task in group}
    bucket.save(f"merges/{config['setting']}/{config['method']}", scores)
    accuracies = [each["accuracy"] for group in scores.values() for each in group.values()]
    tune.report({"accuracy": float(np.mean(accuracies)), "scores": json.dumps(scores)})


def expert_trials(plan: Plan, bucket: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Yields the configuration of every expert; a setting on two axes is trained once."""
    seen = set()
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        for task, spec in experts.items():
            if spec.id not in seen:
                seen.add(spec.id)
                yield {
                    "bucket": bucket,
                    "setting": setting.name,
                    "task": task,
                    "num_classes": plan.sources[task].task.num_classes,
                    "model": setting.base.model,
                    "momentum": spec.constants.momentum,
                    "freeze_batch_norm": spec.constants.freeze_batch_norm,
                    "point": vars(spec.hyperparameters),
                }


def merge_trials(plan: Plan, bucket: tuple[str, str]) -> list[dict[str, Any]]:
    """Returns a configuration for every setting and method; equal ones are merged once."""
    seen: set[str] = set()
    trials: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in plan.cells:
        if cell.merge.id in seen:
            continue
        seen.add(cell.merge.id)
        trial = trials.setdefault(
            (cell.setting.name, cell.label),
            {
                "bucket": bucket,
                "setting": cell.setting.name,
                "label": cell.label,
                "method": cell.merge.method,
                "params": vars(parse_params(cell.merge.method, cell.merge.params)),
                "model": cell.setting.base.model,
                "groups": {},
                "seeds": {},
            },
        )
        trial["groups"][cell.group.name] = [expert.task for expert in cell.merge.experts]
        trial["seeds"][cell.group.name] = cell.merge.seed
    return list(trials.values())


def run_trials(
    function: Callable[[dict[str, Any]], None],
    trials: Sequence[dict[str, Any]],
    *,
    name: str,
    folder: Path,
) -> tune.ResultGrid:
    """Runs one Tune trial for each configuration, or the rest of them after a kill."""
    trainable = tune.with_resources(lambda config: function(config["trial"]), {"cpu": 1})
    path = str(folder / name)
    if tune.Tuner.can_restore(path):
        return tune.Tuner.restore(path, trainable, restart_errored=True).fit()
    mlflow = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name=name
    )
    return tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(trials))},
        run_config=tune.RunConfig(
            name=name, storage_path=str(folder), callbacks=[mlflow], verbose=0
        ),
    ).fit()


def run(plan: Plan, *, bucket: tuple[str, str], folder: Path) -> dict[str, Any]:
    """Runs the study; returns the scores by setting, method and group, and those of experts."""
    store = Bucket(*bucket)
    if not (folder / "prepared").exists():
        weights = fit_weights(
            packaged_path(plan.study.backbone.model), model=plan.study.backbone.model
        )
        store.save("base", dict(weights.tensors))
        ray.get([prepare_images.remote(job, bucket=bucket) for job in plan.data_jobs])
        (folder / "prepared").touch()
    experts = list(expert_trials(plan, bucket))
    tuned = run_trials(finetune, experts, name="experts", folder=folder)
    merges = run_trials(merge_setting, merge_trials(plan, bucket), name="merges", folder=folder)
    return {
        "experts": [_row(each, "task", "accuracy", "loss") for each in tuned],
        "merges": [_row(each, "label", "scores") for each in merges],
    }


def _row(result: Any, *names: str) -> dict[str, Any]:  # noqa: ANN401 Ray's results are untyped
    if result.error is not None:
        raise result.error
    found = {**result.config["trial"], **result.metrics}
    return {"setting": found["setting"], **{name: found[name] for name in names}}


def main() -> None:
    """Runs the study of a file and writes the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", default="naive")
    parser.add_argument("--folder", type=Path, required=True, help="for Tune, MLflow and scores")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    plan = build_plan(parse_study(arguments.study.read_text(), source=str(arguments.study)))
    ray.init(include_dashboard=False, log_to_driver=False)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    bucket = (arguments.bucket, arguments.prefix)
    scores = run(plan, bucket=bucket, folder=arguments.folder.absolute())
    (arguments.folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
