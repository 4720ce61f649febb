"""Runs the peers: writes the models to files, and asks each peer once for all its cases."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from architectures import State, base_and_experts, weights_of
from case_schema import Case
from cases import CASES
from measurements import fisher, grams
from safetensors.torch import load_file, save_file

from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("ORACLE_PYTHON", ROOT / ".venv-oracle/bin/python"))
"""The interpreter of the peers' environment; `make oracle` builds it."""
SEED = 7
TIMEOUT_S = 1800


class PeerRefusedError(Exception):
    """The peer raised an error instead of merging."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A peer's result for one case on one architecture."""

    error: str | None
    """The peer's error; None if it merged."""
    merged: Path
    """The file of the merged state."""

    def state(self) -> State:
        """Returns the merged state.

        Raises:
            PeerRefusedError: The peer raised an error.
        """
        if self.error is not None:
            raise PeerRefusedError(self.error)
        return load_file(self.merged)


Answers = Mapping[tuple[str, str], Answer]
"""By the case's name and the architecture."""


def ask(peer: str, *, points: Iterable[tuple[str, str]], directory: Path) -> Answers:
    """Asks one peer for its cases in one process, since imports take longer than merges."""
    directory.mkdir()
    keys = [(name, architecture) for name, architecture in points if CASES[name].peer == peer]
    requests = [
        _request(CASES[name], architecture=architecture, out=directory / f"{index}.safetensors")
        for index, (name, architecture) in enumerate(keys)
    ]
    errors = run_requests(HERE / f"peer_{peer}.py", requests=requests, directory=directory)
    return {
        key: Answer(error=error, merged=Path(str(request["out"])))
        for key, request, error in zip(keys, requests, errors, strict=True)
    }


def run_requests(
    script: Path, *, requests: Sequence[Mapping[str, object]], directory: Path
) -> list[str | None]:
    """Runs a peer's script on requests; returns the error of each, None if it merged."""
    (directory / "requests.json").write_text(json.dumps(requests))
    command = [PYTHON, script, directory / "requests.json", directory / "answers.json"]
    with (directory / "log.txt").open("wb") as log:
        code = subprocess.run(
            command, stdout=log, stderr=log, check=False, timeout=TIMEOUT_S
        ).returncode
    if code != 0:
        lines = (directory / "log.txt").read_text(errors="replace").splitlines()[-30:]
        raise RuntimeError(f"{script.name} ended with {code}:\n" + "\n".join(lines))
    errors: list[str | None] = json.loads((directory / "answers.json").read_text())["errors"]
    return errors


def _request(case: Case, *, architecture: str, out: Path) -> dict[str, object]:
    method, parameters = case.theirs
    models = out.parents[1] / architecture / _form(case)
    experts = range(case.num_experts)
    request: dict[str, object] = {
        "method": method,
        "parameters": dict(parameters),
        "base": str(models / "base"),
        "experts": [str(models / f"expert_{index}") for index in experts],
        "out": str(out),
        "is_double": case.is_double,
        "is_divided": case.is_divided,
    }
    if case.is_random:
        kept = [_kept(case, architecture=architecture, expert=index) for index in experts]
        request["kept"] = _write(kept, beside=out, kind="kept")
    if case.measured:
        measured = [_measured(case, architecture=architecture, expert=each) for each in experts]
        request["statistics"] = _write(measured, beside=out, kind="statistics")
    return request


def _form(case: Case) -> str:
    if case.are_kernels_matrices:
        return "matrices"
    return "weights" if case.part == "weights" else "state"


def _write(states: Iterable[State], *, beside: Path, kind: str) -> list[str]:
    paths = []
    for index, state in enumerate(states):
        paths.append(str(beside.with_suffix(f".{kind}_{index}")))
        save_file(state, paths[-1])
    return paths


def write_models(directory: Path, *, architectures: Iterable[str]) -> None:
    """Writes every architecture's models: whole, only weights, and weights with flat kernels."""
    for architecture in architectures:
        base, experts = base_and_experts(architecture)
        named = {"base": base, **{f"expert_{i}": each for i, each in enumerate(experts)}}
        for form, convert in FORMS.items():
            (directory / architecture / form).mkdir(parents=True)
            for name, state in named.items():
                save_file(convert(state), directory / architecture / form / name)


def _matrices_of(state: State) -> State:
    kernels = {name: each.flatten(1) for name, each in state.items() if each.dim() == KERNEL}
    return weights_of(state) | kernels


KERNEL = 4
FORMS: dict[str, Callable[[State], State]] = {
    "state": dict,
    "weights": weights_of,
    "matrices": _matrices_of,
}


def _measured(case: Case, *, architecture: str, expert: int) -> State:
    measure = {"fisher": fisher, "grams": grams}[case.measured or ""]
    return measure(weights_of(base_and_experts(architecture)[0]), expert)


def _kept(case: Case, *, architecture: str, expert: int) -> State:
    """Returns which entries of an expert this project keeps.

    They are the non-zero entries of a merge in which the base and all other experts are zero, and
    which does nothing but drop entries.
    """
    base, experts = base_and_experts(architecture)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights_of(base).items()}
    vector = {name: experts[expert][name] - base[name] for name in zeros}
    states = [vector if index == expert else zeros for index in range(case.num_experts)]
    method, values = _thinning(case)
    merged = merge(
        zeros, states, options=MergeOptions(params=parse_params(method, values), seed=SEED)
    )
    return {name: tensor.ne(0) for name, tensor in merged}


def _thinning(case: Case) -> tuple[str, dict[str, object]]:
    """Returns the method that only drops entries as the case's method does."""
    method, values = case.ours
    dropping = {"density": values["density"], "scaling": 1.0}
    if method == "della":
        rules = {"epsilon": values["epsilon"], "elect": False, "consensus": "sum"}
        return "della", dropping | rules
    return "dare", dropping
