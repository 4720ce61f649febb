"""Writes the study file that tests some advice: with listed settings, or with chosen steps.

Everything else stays as it is, so that the next study has the same groups and seeds, its settings
can be compared in pairs, and everything that is committed already is shared.
"""

import re
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

from orchestrator.advice.tried import beside_default
from orchestrator.study.schema import STEPS, Study
from orchestrator.study.yaml_text import dump_yaml, load_yaml
from workers.specs.hyperparameters import Hyperparameters

_MAX_NAME = 63
_NUMBERED = re.compile(r"-next(?:-(\d+))?$")


def next_name(name: str, *, taken: Container[str]) -> str:
    """Returns the first free name of `NAME-next`, `NAME-next-2` and so on."""
    found = _NUMBERED.search(name)
    stem = name[: found.start()] if found else name
    number = int(found[1] or 1) + 1 if found else 1
    while True:
        ending = "-next" if number == 1 else f"-next-{number}"
        candidate = stem[: _MAX_NAME - len(ending)] + ending
        if candidate not in taken:
            return candidate
        number += 1


def steps_study_text(
    text: str, *, study: Study, name: str, entry: int, comments: Sequence[str]
) -> str:
    """Returns the study file in which one entry also chooses the steps of each task.

    The entry stands there without the choice as well, so that both can be compared. Nothing else
    changes but the name, so that all experts and the entry's own merges are shared.

    Args:
        text: The study file, as written.
        study: The study, with the store that it was opened in.
        name: The name of the next study.
        entry: The place of the entry under `merge`.
        comments: Lines for the head of the file.
    """
    values = {**load_yaml(text), "name": name, "store": study.store}
    plain = dict(values["merge"][entry])
    choosing = {**plain, STEPS: "chosen"}
    if "label" in plain:
        choosing["label"] = f"{plain['label'][:80]}, steps chosen"
    return _written({**values, "merge": [plain, choosing]}, comments=comments)


def next_study_text(
    text: str,
    *,
    study: Study,
    name: str,
    points: Sequence[Hyperparameters],
    comments: Sequence[str],
    methods: Collection[int] | None = None,
) -> str:
    """Returns a study file with the settings at some points in place of the study's own.

    Args:
        text: The study file, as written.
        study: The study, with the store that it was opened in.
        name: The name of the next study.
        points: The points of its settings.
        comments: Lines for the head of the file.
        methods: The places of the entries under `merge` that stay; None for all of them.
    """
    values = {**load_yaml(text), "name": name, "store": study.store}
    values.pop("search", None)
    if methods is not None:
        values["merge"] = [each for at, each in enumerate(values["merge"]) if at in methods]
    default = study.finetune.default_point
    old = values.get("finetune") or {}
    kept = {key: old[key] for key in old if key not in {"axes", "draws", "design", "points"}}
    values["finetune"] = {
        **kept,
        "design": "listed",
        "points": [dict(beside_default(point, default)) for point in points],
    }
    if isinstance(values.get("backbone"), dict):
        values["backbone"] = {
            key: each for key, each in values["backbone"].items() if key != "axes"
        }
    return _written(values, comments=comments)


def _written(values: Mapping[str, Any], *, comments: Sequence[str]) -> str:
    body = dump_yaml(values, default_flow_style=None, width=100)
    head = "".join(f"# {line}\n" for line in comments)
    return head + body
