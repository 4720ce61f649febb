"""The scores of models that other tools made, in the file external.json of a study's folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.metrics import TaskSums
from orchestrator.record.folder import EXTERNAL_FILE, StudyFolder
from workers.artifacts.checksummed_json import dump_checksummed


@dataclass(frozen=True, kw_only=True)
class ExternalScores:
    """A file of weights, evaluated under the heads of a setting's experts."""

    label: str
    """The name in the tables, in the place of a method."""
    sha256: str
    """Digest of the file; of a checkpoint in several files, of their digests."""
    setting: str
    """Name of the setting whose heads were used."""
    groups: tuple[str, ...]
    """Names of the groups that it was scored on."""
    experts: Mapping[str, str]
    """Ids of the experts whose heads were used, by task."""
    tasks: Mapping[str, TaskSums]
    """Sums over the test images, by task."""
    scored_at_s: float
    """Seconds since 1970."""
    code_version: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        tasks = {task: sums.to_json() for task, sums in self.tasks.items()}
        return {**vars(self), "groups": list(self.groups), "tasks": tasks}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ExternalScores":
        """Returns the scores that `to_json` turned into plain values.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        tasks = {task: TaskSums.from_json(sums) for task, sums in values["tasks"].items()}
        return ExternalScores(**{**values, "groups": tuple(values["groups"]), "tasks": tasks})


def read_external(folder: StudyFolder) -> tuple[ExternalScores, ...]:
    """Returns the external scores of a study, in the order in which they were first made.

    Raises:
        StudyDamagedError: The file is damaged.
    """
    fields = folder.read_checksummed(EXTERNAL_FILE)
    try:
        return tuple(map(ExternalScores.from_json, fields["scores"] if fields else ()))
    except (KeyError, TypeError) as error:
        raise folder.damaged(f"{EXTERNAL_FILE} has another form: {error!r}") from error


def write_external(folder: StudyFolder, scores: Iterable[ExternalScores]) -> None:
    """Writes all external scores of a study. The caller holds the study's lease."""
    fields = {"study": folder.name, "scores": [each.to_json() for each in scores]}
    folder.write_bytes(EXTERNAL_FILE, dump_checksummed(fields))


def with_scores(
    before: Sequence[ExternalScores], new: ExternalScores
) -> tuple[ExternalScores, ...]:
    """Returns scores with new ones; those of the same file at the same setting are joined."""
    for place, each in enumerate(before):
        if (each.label, each.setting, each.sha256) == (new.label, new.setting, new.sha256):
            joined = replace(
                new,
                groups=tuple(dict.fromkeys((*each.groups, *new.groups))),
                experts={**each.experts, **new.experts},
                tasks={**each.tasks, **new.tasks},
            )
            return (*before[:place], joined, *before[place + 1 :])
    return (*before, new)
