"""Has files of weights evaluated under the heads of a study, and returns their scores."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.export.choice import ChoiceError, command_on, unknown_choice
from orchestrator.plan.groups import Group
from orchestrator.plan.settings import Setting
from orchestrator.record.committed import Committed
from orchestrator.record.external import ExternalScores
from workers.artifacts.code_version import code_version
from workers.specs.expert import ExpertSpec

if TYPE_CHECKING:
    from workers.workspace import Workspace

_IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that a folder of weights may have, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The experts of one setting under whose heads files are scored."""

    setting: Setting
    groups: tuple[Group, ...]
    experts: Mapping[str, ExpertSpec]
    """By task, for the tasks of `groups`."""


def heads_of(committed: Committed, *, setting: str | None, group: str | None) -> Heads:
    """Returns the heads of a setting, for one group or for all groups whose experts exist.

    Args:
        committed: The study's committed artifacts.
        setting: Name of the setting; None if the study has one.
        group: Name of the group; None for all.

    Raises:
        ChoiceError: A name is unknown or missing, or experts are not made yet.
    """
    plan = committed.plan
    settings = {each.name: each for each in plan.settings}
    if not settings:
        raise ChoiceError("the study's search has no winner yet, so that there are no heads to use")
    if setting is None and len(settings) > 1:
        raise ChoiceError(
            f"say whose heads to use: --setting; the study's settings: {', '.join(settings)}"
        )
    if setting is not None and setting not in settings:
        raise ChoiceError(unknown_choice("setting", setting, known=settings))
    wanted = settings[setting] if setting is not None else plan.settings[0]
    experts = plan.setting_experts[plan.settings.index(wanted)]
    size = wanted.size or plan.study.groups.size
    groups = {each.name: each for each in plan.groups if each.size == size}
    if group is not None and group not in groups:
        raise ChoiceError(unknown_choice("group", group, known=groups))
    if any(spec.hyperparameters.linearised for spec in experts.values()):
        raise ChoiceError(f"the experts of {wanted.name} are linearised, and no file can be")
    usable = {
        task
        for task, spec in experts.items()
        if spec.id in committed.experts and not committed.lacks_weights(spec.id)
    }
    asked = [groups[group]] if group is not None else list(groups.values())
    fitting = tuple(each for each in asked if usable.issuperset(each.tasks))
    if not fitting:
        lacking = ", ".join(sorted({task for each in asked for task in each.tasks} - usable))
        raise ChoiceError(
            f"these tasks have no head at {wanted.name}, because their experts are not made or "
            f"diverged: {lacking}; {command_on(plan.study, 'resume')} makes what is missing"
        )
    tasks = dict.fromkeys(task for each in fitting for task in each.tasks)
    return Heads(setting=wanted, groups=fitting, experts={task: experts[task] for task in tasks})


def weights_file(path: Path) -> Path:
    """Returns the file of weights that a path means: the file, or the one in a folder.

    Raises:
        ChoiceError: The folder has none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
    if found is None:
        raise ChoiceError(f"{path}: a folder without {', '.join(_IN_FOLDERS)}; name a file")
    return found


def label_of(path: Path) -> str:
    """Returns the name of a file in the tables, unless another one is given."""
    if path.is_dir():
        return path.absolute().name
    stem = Path(path.name.removesuffix(".index.json")).stem
    return path.absolute().parent.name if stem in {"model", "pytorch_model"} else stem


def score(
    files: Mapping[str, Path],
    *,
    heads: Heads,
    committed: Committed,
    store_url: str,
    now_s: float,
    say: Callable[[str], None],
) -> Iterator[ExternalScores]:
    """Evaluates files and yields the scores of each; all files are checked before the first.

    Args:
        files: Paths by label.
        heads: The heads to use.
        committed: The study's committed artifacts.
        store_url: The study's store.
        now_s: Seconds since 1970.
        say: Takes remarks, such as tensors of a file that are left out.

    Raises:
        ChoiceError: A file does not fit, or its label is taken; the message has all such files.
        workers.workspace.MissingArtifactError: An artifact is not in the store.
    """
    # Imported here because torch takes seconds to load: a wrong name is reported at once.
    from workers.export.models import Machine  # noqa: PLC0415
    from workers.merging.score_file import read_backbone, score_weights  # noqa: PLC0415

    share = committed.plan.study.resources.merge
    machine = Machine(
        store_url=store_url, num_threads=max(1, int(share.cpu)), uses_gpu=share.gpu > 0
    )
    workspace = machine.workspace()
    base_id = next(iter(heads.experts.values())).base_id
    digests = _checked(files, base_id=base_id, committed=committed, workspace=workspace, say=say)
    for label, path in files.items():
        weights = read_backbone(path, base_id=base_id, workspace=workspace)
        sums = score_weights(weights, experts=heads.experts.values(), workspace=workspace)
        yield ExternalScores(
            label=label,
            sha256=digests[label],
            setting=heads.setting.name,
            groups=tuple(group.name for group in heads.groups),
            experts={task: spec.id for task, spec in heads.experts.items()},
            tasks=sums,
            scored_at_s=now_s,
            code_version=code_version(),
        )


def _checked(
    files: Mapping[str, Path],
    *,
    base_id: str,
    committed: Committed,
    workspace: "Workspace",
    say: Callable[[str], None],
) -> dict[str, str]:
    """Returns the digests of files by label, if nothing is wrong with any of them.

    Raises:
        ChoiceError: Files do not fit or labels are taken; the message has a line for each.
    """
    from workers.merging.score_file import digest_of, read_backbone  # noqa: PLC0415 loads torch
    from workers.models.pretrained_weights import WeightsError  # noqa: PLC0415 as above

    problems: list[str] = []
    digests: dict[str, str] = {}
    for label, path in files.items():
        try:
            digests[label] = digest_of(path)
            remarks = read_backbone(path, base_id=base_id, workspace=workspace).remarks
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except WeightsError as error:
            problems.append(str(error))
        else:
            problems += _label_problems(label, digest=digests[label], committed=committed)
            for remark in remarks:
                say(remark)
    if problems:
        raise ChoiceError("\n".join(problems))
    return digests


def _label_problems(label: str, *, digest: str, committed: Committed) -> Iterator[str]:
    """Yields why a label cannot be used in the study's tables."""
    if label in {cell.label for cell in committed.plan.cells}:
        yield f"{label!r} is the label of a method of the study; give another with --label"
    taken = {each.label: each.sha256 for each in committed.external}
    if taken.get(label, digest) != digest:
        yield (
            f"{label!r} is the label of another file, with sha256 {taken[label][:16]}...; give "
            "another with --label"
        )
