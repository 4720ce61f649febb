"""Compares merges with the peers' own implementations: `make oracle`, no part of `make test`."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from architectures import State, base_and_experts, is_statistic, weights_of
from case_schema import Case, Part
from cases import CASES, DIFFERENCES
from measurements import RandomProbe
from run_peers import SEED, Answer, Answers, PeerRefusedError, ask, write_models

from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge_groups, merge_tasks

TOLERANCE = 1e-5
"""Largest accepted difference, as a fraction of the largest entry of a task vector."""


@pytest.fixture(scope="session")
def answers(request: pytest.FixtureRequest) -> Iterator[Answers]:
    """Asks every peer once for all selected cases, and deletes the files at the end."""
    chosen = [
        (item.callspec.params["name"], item.callspec.params["architecture"])
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    ]
    with TemporaryDirectory() as directory:
        write_models(Path(directory), architectures={architecture for _, architecture in chosen})
        asked: dict[tuple[str, str], Answer] = {}
        for peer in sorted({CASES[name].peer for name, _ in chosen}):
            asked |= ask(peer, points=chosen, directory=Path(directory) / peer)
        yield asked


def points(*, explained: bool) -> list[tuple[str, str]]:
    """Returns the names of cases with their architectures."""
    return [
        (name, architecture)
        for name, case in CASES.items()
        for architecture in case.architectures
        if (name in DIFFERENCES) == explained
    ]


@pytest.mark.parametrize(("name", "architecture"), points(explained=False))
def test_merge_agrees_with_the_peer(name: str, architecture: str, answers: Answers) -> None:
    """The largest difference, relative to the task vectors, is within the tolerance."""
    case = CASES[name]
    theirs = answers[name, architecture].state()
    assert largest_difference(case, architecture=architecture, theirs=theirs) <= TOLERANCE


@pytest.mark.parametrize(("name", "architecture"), points(explained=True))
def test_an_explained_difference_is_still_there(
    name: str, architecture: str, answers: Answers
) -> None:
    """The results differ, or the peer raises the expected error, as the table explains."""
    case, difference = CASES[name], DIFFERENCES[name]
    answer = answers[name, architecture]
    if difference.kind == "the peer refuses":
        with pytest.raises(PeerRefusedError, match=difference.message):
            answer.state()
    else:
        found = largest_difference(case, architecture=architecture, theirs=answer.state())
        assert found > 10 * TOLERANCE


def test_every_explanation_is_of_a_case() -> None:
    """Every explanation, and every case that it refers to, still exists."""
    named = {shown for difference in DIFFERENCES.values() for shown in difference.shown_by}
    assert set(DIFFERENCES) <= set(CASES)
    assert named <= set(CASES) - set(DIFFERENCES)


def largest_difference(case: Case, *, architecture: str, theirs: State) -> float:
    """Returns the largest difference of the compared part, relative to the task vectors."""
    base, experts = base_and_experts(architecture)
    ours = merged(case, base=base, experts=experts[: case.num_experts])
    names = names_of(case.part, state=base)
    assert names
    assert set(names) <= set(theirs)
    scale = max(float((experts[0][name] - base[name]).abs().max()) for name in weights_of(base))
    return (
        max(float((ours[name] - theirs[name].view_as(ours[name])).abs().max()) for name in names)
        / scale
    )


def merged(case: Case, *, base: State, experts: list[State]) -> State:
    """Returns this project's merge of a case."""
    method, values = case.ours
    if case.one_entry_more:
        num_entries = sum(tensor.numel() for tensor in weights_of(base).values())
        num_kept = int(float(str(values[case.one_entry_more])) * num_entries) + 1
        values = {**values, case.one_entry_more: num_kept / num_entries}
    options = MergeOptions(
        params=parse_params(method, values),
        batch_norm=case.batch_norm,
        seed=SEED,
        probe=RandomProbe(weights_of(base)) if case.measured else None,
    )
    if case.task is not None:
        tensors = merge_tasks(base, experts, tasks=[case.task], options=options)
    else:
        tensors = merge_groups(base, experts, groups=[range(len(experts))], options=options)
    return {name: tensor for name, (tensor,) in tensors}


def names_of(part: Part, *, state: State) -> list[str]:
    """Returns the names of the tensors of one part of a state."""
    if part == "weights":
        return list(weights_of(state))
    if part == "statistics":
        return [name for name in state if is_statistic(name)]
    return [name for name, tensor in state.items() if not tensor.is_floating_point()]
