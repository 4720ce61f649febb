"""Writes the model card of an export: README.md with the front matter that the hub reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eval.counts import counted
from orchestrator.export.choice import Chosen, ChosenExpert, ChosenMerge, ChosenMultiTask
from orchestrator.export.snippet import snippet
from orchestrator.plan.data_use import data_use, has_task_modules
from orchestrator.plan.multi_task import MULTI_TASK
from orchestrator.plan.plan import Plan
from orchestrator.results.means import Row
from orchestrator.results.schema import MEANS
from orchestrator.study.yaml_text import dump_yaml
from workers.artifacts.code_version import code_version
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import merged_params
from workers.export.outcome import Exported
from workers.specs.bases import BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters

CHECKS = {
    "digest": "its weights have the digest that the evaluation recorded",
    "sums": "evaluated again, it has the sums that the study stored; the release that evaluated it "
    "recorded no digest of its weights",
    "file": "its file has the digest in the study's store",
}
"""Sentences on what the checks of an exported model have shown, by the check's name."""
_LIBRARIES = ("torch", "timm", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that a model card says."""

    plan: Plan
    chosen: Chosen
    manifest: Manifest
    """The manifest of the model."""
    exported: Exported

    @property
    def experts(self) -> tuple[ExpertSpec, ...]:
        """The experts of a merge's group, or the one expert; a multi-task model has none."""
        match self.chosen:
            case ChosenMerge(cell=cell):
                return cell.merge.experts
            case ChosenExpert(spec=spec):
                return (spec,)
            case ChosenMultiTask():
                return ()

    @property
    def merged(self) -> Sequence[ExpertSpec]:
        """The experts, and the further ones of a pool."""
        chosen = self.chosen
        return chosen.cell.merge.merged if isinstance(chosen, ChosenMerge) else self.experts

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the model has heads for."""
        if isinstance(self.chosen, ChosenMultiTask):
            return self.chosen.cell.group.tasks
        return tuple(expert.task for expert in self.experts)

    @property
    def base(self) -> BaseSpec:
        """The base of the experts, or the one that the multi-task model starts from."""
        if isinstance(self.chosen, ChosenMultiTask):
            return self.chosen.cell.model.initial
        return self.plan.bases.by_id[self.experts[0].base_id]

    @property
    def rows(self) -> Sequence[Row]:
        """The scores: a row for each task, and for several tasks one for each mean."""
        if isinstance(self.chosen, ChosenExpert):
            return (self.chosen.row,)
        return tuple(row for row in self.chosen.rows if not row["held_out"])


def card_text(card: Card) -> str:
    """Returns the text of README.md."""
    front = dump_yaml(_front_matter(card), allow_unicode=True, width=88)
    sections = [f"---\n{front}---\n", *_sections(card)]
    return "\n".join(sections)


def _front_matter(card: Card) -> dict[str, Any]:
    is_merge = isinstance(card.chosen, ChosenMerge)
    relation = "merge" if is_merge else "finetune"
    base_model = card.exported.base_model
    return {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "license": "other",
        "license_name": "see-licences-below",
        **({"base_model": base_model, "base_model_relation": relation} if base_model else {}),
        "tags": ["timm", "image-classification", "mergesweep", *(["merge"] if is_merge else [])],
        "metrics": ["accuracy"],
        "model-index": [{"name": _name(card), "results": list(_results(card))}],
    }


def _results(card: Card) -> Iterator[dict[str, Any]]:
    for row in card.rows:
        task = row["task"]
        name = f"{task} over the group" if task in MEANS else task
        yield {
            "task": {"type": "image-classification"},
            "dataset": {"type": task, "name": name, "split": "test"},
            "metrics": [{"type": "accuracy", "value": row["accuracy"]}],
        }


def _name(card: Card) -> str:
    chosen, study = card.chosen, card.plan.study.name
    if isinstance(chosen, ChosenExpert):
        return f"{study}: expert of {chosen.spec.task}, {chosen.setting}"
    cell = chosen.cell
    label = MULTI_TASK if isinstance(chosen, ChosenMultiTask) else chosen.cell.label
    return f"{study}: {label} of {cell.group.name}, {cell.setting.name}"


def _sections(card: Card) -> Iterator[str]:
    yield f"# {_name(card)}\n"
    yield _summary(card)
    yield "## Use\n"
    yield _use(card)
    yield "## Scores\n"
    yield _scores(card)
    if isinstance(card.chosen, ChosenMultiTask):
        yield "## Training\n"
        yield _training(card.chosen)
    else:
        yield "## Experts\n"
        yield _experts(card)
    yield "## Origin\n"
    yield _origin(card)
    yield "## Licences\n"
    yield _licences(card)


def _summary(card: Card) -> str:
    model = card.base.model
    tasks = ", ".join(card.tasks)
    if isinstance(card.chosen, ChosenExpert):
        return f"A `{model}` of timm, fine-tuned on the task {tasks}.\n"
    if isinstance(card.chosen, ChosenMultiTask):
        reason = f"\n{card.chosen.reason}\n" if card.chosen.reason else ""
        return (
            f"A `{model}` of timm, fine-tuned on {len(card.tasks)} tasks together, with a head for "
            f"each: {tasks}. It is no merge and has no experts.\n{reason}"
        )
    merge = card.chosen.cell.merge
    method = merge.card.title
    chosen = merged_params(card.manifest.spec, card.manifest.metrics)
    params = ", ".join(f"{name}={value}" for name, value in chosen.items())
    lines = [
        f"A `{model}` of timm: the merge of {len(merge.experts)} experts, fine-tuned on {tasks}"
        + (f", with {counted(len(merge.pool), 'further expert')}." if merge.pool else "."),
        "",
        f"- method: `{merge.method}` ({method})" + (f", {params}" if params else ""),
        f"- BatchNorm's running statistics: {merge.batch_norm}",
        f"- data that the merge reads: {data_use(merge)}",
    ]
    if merge.card.is_random or merge.surgery is not None:
        lines.append(f"- seed: {merge.seed}")
    if merge.surgery is not None:
        surgery = ", ".join(f"{name}={value}" for name, value in vars(merge.surgery).items())
        lines.append(f"- representation surgery: {surgery}")
    if has_task_modules(merge):
        lines.append("- parts of the model are of one task: the task must be known to use it")
    if card.chosen.reason:
        lines += ["", card.chosen.reason]
    return "\n".join(lines) + "\n"


def _use(card: Card) -> str:
    merge = card.chosen.cell.merge if isinstance(card.chosen, ChosenMerge) else None
    code = snippet(
        has_adapters=merge is not None and merge.surgery is not None,
        is_cosine=any(expert.head_id is not None for expert in card.experts),
    )
    size = card.plan.study.backbone.image_size
    return (
        "This program prints the class of each image file. It needs timm, torch, safetensors and "
        "Pillow. Save it as `classify.py` and run "
        f"`python classify.py FOLDER {card.tasks[0]} IMAGE...`; FOLDER is the folder of "
        "this card.\n\n"
        f"```python\n{code}```\n\n"
        f"Images are resized as in the study: the shorter side to {size} pixels (bicubic), then "
        "the square in the middle, normalized by the mean and standard deviation in "
        "`config.json`.\n\n"
        "- `config.json`, `model.safetensors`: the backbone without classifier, for "
        '`timm.create_model("local-dir:FOLDER", pretrained=True)`; in a folder for each task if '
        "tasks have models of their own\n"
        "- `heads.safetensors`: the classifier of each task, never merged\n"
        "- `tasks.json`: for each task the place of its model, its classes, and whether its images "
        "are grey (`L`)\n"
    )


def _scores(card: Card) -> str:
    references = "base: the base under the same head"
    if isinstance(card.chosen, ChosenMultiTask):
        references = (
            "expert: the study's expert of the task with the same hyperparameters, which is no "
            "part of this model; base: the base under that expert's head"
        )
    lines = [
        f"Accuracy in % on the study's test images; {references}.",
        "",
        "| task | images | this model | expert | base |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in card.rows:
        cells = [
            row["task"],
            str(row["num_examples"]),
            *(
                _percent(row.get(name, row["accuracy"]))
                for name in ("accuracy", "expert_accuracy", "base_accuracy")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _experts(card: Card) -> str:
    lines = ["| task | expert | hyperparameters |", "| --- | --- | --- |"]
    for expert in card.merged:
        values = _values_of(expert.hyperparameters)
        lines.append(f"| {expert.task} | `{expert.id}` | {values} |")
    return "\n".join(lines) + "\n"


def _training(chosen: ChosenMultiTask) -> str:
    used = chosen.cell.model.hyperparameters
    return (
        f"{counted(used.steps, 'step')}, each on {counted(used.batch_size, 'image')} of all tasks "
        "mixed: a task with twice the images is seen twice as often. The loss of an image sees the "
        f"classes of its own task.\n\n- hyperparameters: {_values_of(used)}\n"
    )


def _values_of(hyperparameters: Hyperparameters) -> str:
    columns: Mapping[str, Any] = hyperparameters.columns()
    return ", ".join(f"{name}={value}" for name, value in columns.items() if value is not None)


def _origin(card: Card) -> str:
    manifest, exported, base = card.manifest, card.exported, card.base
    kind = "multi-task model" if isinstance(card.chosen, ChosenMultiTask) else manifest.kind
    here = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    lines = [
        f"- study: {card.plan.study.name}",
        f"- {kind}: `{manifest.id}`, made by mergesweep {manifest.code_version}",
        f"- base: `{base.model}`, weights `{base.weights}` (`{base.id}`)",
        f"- exported by mergesweep {code_version()} with {here}, on {exported.device}",
        f"- digest of the weights: `{exported.weights_sha256}`",
        f"- check of the export: {CHECKS[exported.check]}",
    ]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _licences(card: Card) -> str:
    lines = [
        "The study does not know the licence of this model. It depends on:",
        "",
        f"- the base's weights, `{card.base.model}` from `{card.base.weights}`",
    ]
    for name in dict.fromkeys((*card.tasks, *(expert.task for expert in card.merged))):
        task = card.plan.sources[name].task
        lines.append(f"- the images of {task.name}: {task.licence}")
    return "\n".join(lines) + "\n"
