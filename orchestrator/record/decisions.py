"""Reads and writes the decisions of a search in the study's folder.

Each decision is one file, `search-0001.json` and so on, which is written before anything of it is
trained and never again.
"""

from collections.abc import Sequence
from typing import Any

from eval.digests import sha256_of_bytes
from orchestrator.plan.candidates import Decision
from orchestrator.record.folder import StudyDamagedError, StudyFolder
from orchestrator.study.problems import StudyError, StudyProblem
from orchestrator.study.schema import Study
from workers.artifacts.checksummed_json import dump_checksummed
from workers.specs.ids import canonical_json

_NOT_DECISIVE = {
    "budget",
    "checkpoint_every_s",
    "evaluation",
    "resources",
    "retries",
    "store",
    "tracking",
}
"""Fields of a study file that may change while its search goes on."""


def recorded_decisions(folder: StudyFolder, *, study: Study) -> tuple[Decision, ...]:
    """Returns the decisions of a study's search so far, in their order.

    Raises:
        StudyDamagedError: A file differs from its checksum.
        StudyError: The study file was changed so that the candidates are no longer its own.
    """
    found: list[Decision] = []
    while (fields := folder.read_checksummed(_name(len(found) + 1))) is not None:
        if fields["digest"] != _digest(study):
            raise StudyError(study.name, problems=[_changed(folder)])
        found.append(Decision.from_json(fields))
    return tuple(found)


def record_decisions(folder: StudyFolder, decisions: Sequence[Decision], *, study: Study) -> None:
    """Writes the decisions that the folder lacks.

    Raises:
        StudyDamagedError: Another driver has decided otherwise.
    """
    for number, decision in enumerate(decisions, start=1):
        fields = {"study": folder.name, "digest": _digest(study), **decision.to_json()}
        content = dump_checksummed(fields)
        if (
            not folder.write_new(_name(number), content)
            and folder.read_bytes(_name(number)) != content
        ):
            raise folder.damaged(f"{_name(number)} holds another decision than that of this run")


def damaged_decisions(folder: StudyFolder) -> dict[str, str]:
    """Returns the damage of each damaged decision in words, by file name.

    A decision that is taken out is taken again by the next run, and is the same.
    """
    found: dict[str, str] = {}
    number = 1
    while folder.read_bytes(_name(number)) is not None:
        try:
            folder.read_checksummed(_name(number))
        except StudyDamagedError as error:
            found[_name(number)] = error.damage.removeprefix(f"{_name(number)} ")
        number += 1
    return found


def _name(number: int) -> str:
    return f"search-{number:04d}.json"


def _digest(study: Study) -> str:
    """Returns a digest of everything that candidates and their scores depend on."""
    fields: dict[str, Any] = study.model_dump(
        mode="json", exclude=_NOT_DECISIVE, exclude_defaults=True
    )
    fields["search"].pop("budget")
    return sha256_of_bytes(canonical_json(fields).encode())[:16]


def _changed(folder: StudyFolder) -> StudyProblem:
    return StudyProblem(
        field="search",
        fault=f"{folder.name} in {folder.store_url} has candidates of another study file",
        remedy="only search.budget, evaluation, budget, resources and the like may change while a "
        "search goes on; give the study another `name`",
    )
