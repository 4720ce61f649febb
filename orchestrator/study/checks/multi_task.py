"""Checks that a study's multi-task models can be trained as its experts are."""

from collections.abc import Iterator, Mapping

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.checks.lora import has_adapters
from orchestrator.study.finetune import Finetune
from orchestrator.study.method_labels import method_labels
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Merge

FIELD = "baselines.multi_task"
LABEL = "multi-task"


def check_multi_task(
    *,
    finetune: Finetune | None,
    backbone: BackboneSection | None,
    merges: Mapping[int, Merge],
) -> Iterator[StudyProblem]:
    """Yields the settings that multi-task models do not have, and a method with their name.

    Args:
        finetune: The study's section; None if that is invalid.
        backbone: The study's section; None if that is invalid.
        merges: The study's valid entries, by position in the file.
    """
    remedy = "leave out one of the two"
    if backbone is not None and (backbone.pretrain is not None):
        fault = "it starts from a base without pretraining, and backbone.pretrain is given"
        yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
    if finetune is not None:
        heads = {finetune.head.mode, *finetune.varied().get("head", [])}
        if finetune.zero_shot is not None or heads != {"trained"}:
            fault = "its heads are trained, and the experts' are not (finetune.head or zero_shot)"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
        if finetune.linearised or True in finetune.varied().get("linearised", []):
            fault = "it is not linearised, and the experts are"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
        if has_adapters(finetune):
            fault = "all its weights are trained, and some experts train adapters (finetune.lora)"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
    for index, label in zip(merges, method_labels(list(merges.values())), strict=True):
        if label == LABEL:
            fault = f"{label!r} is the name of the multi-task models in tables"
            remedy = "give the entry another `label`"
            yield StudyProblem(field=f"merge[{index}].label", fault=fault, remedy=remedy)
