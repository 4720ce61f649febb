"""Turns a study into the specifications of its artifacts, from which their ids follow."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from eval.digests import sha256_of_file
from eval.tasks import Task
from orchestrator.plan.groups import Group
from orchestrator.study.backbone import GivenExpert, Pretrain
from orchestrator.study.finetune import ZeroShot
from orchestrator.study.schema import Merge, Study, Surgery
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE, adapter_folder
from workers.models.pretrained_weights import PACKAGED, is_remote, parse_remote
from workers.specs.bases import BaseJob, BaseSpec, PretrainSpec
from workers.specs.data import DataSpec, EvaluateOn
from workers.specs.expert import ExpertSpec, GivenWeights
from workers.specs.head import HeadJob, ZeroShotSpec
from workers.specs.hyperparameters import UNKNOWN_TRAINING, Hyperparameters, TrainingConstants
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.specs.snapshots import Snapshots
from workers.specs.tuning import TuningSpec


def base_job(*, model: str, weights: str, seed: int, image_size: int | None = None) -> BaseJob:
    """Returns the job of a base before any pretraining.

    The digest of its weights is in its id; the place of its checkpoint is not.

    Args:
        model: A timm model name.
        weights: Source of the weights, as written in the study.
        seed: The study's seed, for random weights.
        image_size: The size of images that the model is built for; None for its own size.
    """
    if weights in ("none", "timm"):
        seed = seed if weights == "none" else 0
        spec = BaseSpec(model=model, weights=weights, seed=seed, image_size=image_size)
        return BaseJob(spec=spec, path=None)
    if weights == "package":
        digest, path = PACKAGED[model].sha256, None
    elif is_remote(weights):
        digest, path = str(parse_remote(weights).digest), weights
    else:
        path = str(Path(weights).resolve())
        digest = sha256_of_file(Path(path))
    spec = BaseSpec(model=model, weights=f"sha256:{digest}", seed=0, image_size=image_size)
    return BaseJob(spec=spec, path=path)


def pretrain_spec(
    pretrain: Pretrain | None, *, steps: int, data_ids: Mapping[str, str]
) -> PretrainSpec | None:
    """Returns the specification of a pretraining of some steps; None for no steps."""
    if pretrain is None or steps == 0:
        return None
    optimizer = pretrain.optimizer
    return PretrainSpec(
        tasks=pretrain.task_names,
        data_ids=tuple(data_ids[task] for task in pretrain.task_names),
        hyperparameters=Hyperparameters(
            steps=steps,
            batch_size=pretrain.batch_size,
            lr=pretrain.lr,
            data_ratio=1.0,
            optimizer=optimizer.name,
            seed=pretrain.seed,
            weight_decay=optimizer.weight_decay,
            sam_rho=optimizer.sam_rho,
            schedule=pretrain.schedule,
        ),
        constants=TrainingConstants(
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov and optimizer.name == "sgd",
            freeze_batch_norm=False,
        ),
    )


def head_job(zero_shot: ZeroShot, *, task: Task) -> HeadJob:
    """Returns the job of a task's zero-shot head."""
    is_file = Path(zero_shot.weights).is_file()
    path = str(Path(zero_shot.weights).resolve()) if is_file else None
    spec = ZeroShotSpec(
        task=task.name,
        model=zero_shot.model,
        weights=zero_shot.weights if path is None else f"sha256:{sha256_of_file(Path(path))}",
        classes=task.classes,
        templates=zero_shot.templates_of(task),
    )
    return HeadJob(spec=spec, path=path)


def data_spec(study: Study, *, task: Task) -> DataSpec:
    """Returns the specification of a task's images in this study."""
    return DataSpec(
        task=task.name,
        fingerprint=task.fingerprint,
        image_size=study.backbone.image_size,
        max_train=study.tasks.max_train,
        max_test=study.tasks.max_test,
        max_validation=study.tasks.max_validation,
        evaluate_on=study.tasks.evaluate_on,
        on_bad_image=study.tasks.on_bad_image_of(task.name),
    )


def expert_spec(
    study: Study,
    *,
    task: str,
    point: Hyperparameters,
    base: BaseSpec,
    data_ids: Mapping[str, str],
    head_id: str | None,
) -> ExpertSpec:
    """Returns the specification of a task's expert at a point.

    Unused settings get fixed values, so that they do not change the id.
    """
    finetune = study.finetune
    if task in study.experts:
        return ExpertSpec(
            task=task,
            base_id=base.id,
            data_id=data_ids[task],
            hyperparameters=UNKNOWN_TRAINING,
            constants=_given_constants(study, task=task),
            head_id=head_id,
            given=given_weights(study.experts[task], is_zero_shot=head_id is not None),
        )
    constants = TrainingConstants(
        momentum=finetune.optimizer.momentum,
        nesterov=finetune.optimizer.nesterov and point.optimizer == "sgd",
        probe_l2=0.0 if point.head == "trained" else finetune.head.l2,
        freeze_batch_norm=finetune.freeze_batch_norm,
    )
    return ExpertSpec(
        task=task,
        base_id=base.id,
        data_id=data_ids[task],
        hyperparameters=point.canonical(),
        constants=constants,
        head_id=head_id,
        evaluate_on="test" if study.search is None else "validation",
    )


def given_weights(expert: GivenExpert, *, is_zero_shot: bool) -> GivenWeights:
    """Returns the weights of a given expert, with the digest of their file.

    Args:
        expert: The study's entry.
        is_zero_shot: Whether a zero-shot head takes the place of the entry's.
    """
    head = "probe" if is_zero_shot else expert.head
    if is_remote(expert.file):
        digest = str(parse_remote(expert.file).digest)
        return GivenWeights(sha256=digest, head=head, path=expert.file)
    path = Path(expert.file).resolve()
    if (folder := adapter_folder(path)) is not None:
        return GivenWeights(
            sha256=sha256_of_file(folder / ADAPTER_FILE),
            config_sha256=sha256_of_file(folder / CONFIG_FILE),
            head=head,
            path=str(folder),
        )
    return GivenWeights(sha256=sha256_of_file(path), head=head, path=str(path))


def _given_constants(study: Study, *, task: str) -> TrainingConstants:
    is_probed = study.experts[task].head == "probe" and study.finetune.zero_shot is None
    l2 = study.finetune.head.l2 if is_probed else 0.0
    return TrainingConstants(momentum=0.0, freeze_batch_norm=False, probe_l2=l2)


def merge_fields(study: Study, *, method: Merge) -> dict[str, Any]:
    """Returns the fields of a `MergeSpec` that all merges of one of a study's methods share."""
    recalibrates = method.batch_norm == "recalibrate"
    draws = method.card.is_random or method.surgery is not None
    params = asdict(method.parsed_params())
    tuning = tuning_spec(method)
    is_per_task = method.card.is_per_task or method.batch_norm == "per_task"
    has_modules = is_per_task or method.surgery is not None
    return {
        "method": method.name,
        "own_method": method.own_method,
        "keeps_weights": method.keep == "merged",
        "params": {**params, **dict.fromkeys(tuning.values if tuning else ())},
        "tuning": tuning,
        "batch_norm": method.batch_norm,
        "recalibration_images": method.recalibration_images if recalibrates else 0,
        "seed": study.seed if draws else 0,
        "surgery": _surgery_spec(method.surgery),
        "joint": "none" if has_modules else study.evaluation.joint,
    }


def merge_spec(
    fields: Mapping[str, Any],
    *,
    group: Group,
    experts: Mapping[str, ExpertSpec],
    has_held_out: bool,
    evaluate_on: EvaluateOn = "test",
    pool: tuple[ExpertSpec, ...] = (),
    snapshots: Snapshots | None = None,
) -> MergeSpec:
    """Returns the specification of a method on a group.

    Args:
        fields: The method's `merge_fields`.
        group: The tasks whose experts are merged.
        experts: The expert of every task of the study, by task; all have the same base.
        has_held_out: Whether the merge is also evaluated on the tasks outside the group whose
            experts it does not merge.
        evaluate_on: The images that the merge is evaluated on. Candidates of a search, which are on
            validation images, never keep weights and have no joint scores.
        pool: Further experts to merge.
        snapshots: The snapshots among which the merge chooses; None to merge `experts`.
    """
    if evaluate_on == "validation":
        fields = {**fields, "keeps_weights": False, "joint": "none"}
    merged = {*group.tasks, *(expert.task for expert in pool)}
    others = [task for task in sorted(experts) if task not in merged] if has_held_out else ()
    return MergeSpec(
        **fields,
        base_id=experts[group.tasks[0]].base_id,
        experts=tuple(experts[task] for task in group.tasks),
        held_out=tuple(experts[task] for task in others),
        evaluate_on=evaluate_on,
        pool=pool,
        snapshots=snapshots,
    )


def tuning_spec(method: Merge) -> TuningSpec | None:
    """Returns the values that a method of a checked study tries; None if it tunes nothing.

    Values have the types of their parameters, and the parameters the method's order.
    """
    if not method.tuned:
        return None
    values = {
        field.name: tuple(
            getattr(method.parsed_params({**method.params, field.name: value}), field.name)
            for value in method.tuned[field.name]
        )
        for field in fields(method.card.params)
        if field.name in method.tuned
    }
    return TuningSpec(values=values, by=method.tuned_by)


def _surgery_spec(surgery: Surgery | None) -> SurgerySpec | None:
    if surgery is None:
        return None
    return SurgerySpec(**surgery.model_dump())
