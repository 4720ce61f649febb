"""Proposes the candidates of a batch: at random, from a grid, or from the scores so far."""

import itertools
import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan.candidates import Candidate
from orchestrator.search.scores import At, Score
from orchestrator.search.space import dimensions, drawn, rounded, search_of, typed
from orchestrator.study.schema import Study
from orchestrator.study.search import SearchRange
from workers.forked import module_command
from workers.sampling.seeds import derive_seed

_SEEDS = 2**32
"""The searchers' random numbers take seeds below this."""


class SearcherError(Exception):
    """The process that proposes candidates has failed; the message has its last line."""


def proposed(
    study: Study,
    *,
    count: int,
    candidates: Sequence[Candidate],
    scores: Mapping[At, Score],
) -> list[dict[str, Any]]:
    """Returns the values of the next candidates; fewer than asked for if a grid ends.

    Under `tpe` and `gp` the first batch is that of `random`, and so is every candidate that repeats
    an earlier one.

    Args:
        study: The study.
        count: The number of candidates.
        candidates: All candidates so far.
        scores: Their scores.

    Raises:
        SearcherError: The process of a searcher has failed.
    """
    begin, search = len(candidates), search_of(study)
    if search.algorithm == "grid":
        return grid(study)[begin : begin + count]
    random_ones = [drawn(study, number=begin + each) for each in range(count)]
    if draws_at_random(study, scores=scores) or not count:
        return random_ones
    finite = [each.badness for each in scores.values() if each.is_finite]
    tried = [_tried(each, scores=scores, worst=max(finite)) for each in candidates]
    asked = _ask(
        {
            "algorithm": search.algorithm,
            "seed": derive_seed(study.seed, "searcher", begin) % _SEEDS,
            "space": {
                name: each.model_dump(exclude_none=True) for name, each in dimensions(study).items()
            },
            "tried": tried,
            "count": count,
        }
    )
    found: list[dict[str, Any]] = []
    seen = [dict(each.values) for each in candidates]
    for values, instead in zip(asked, random_ones, strict=True):
        own = {
            name: typed(name, _shortened(values[name], each))
            for name, each in dimensions(study).items()
        }
        found.append(instead if own in [*seen, *found] else own)
    return found


def draws_at_random(study: Study, *, scores: Mapping[At, Score]) -> bool:
    """Returns whether the next batch is drawn: by `random`, and by searchers without a score."""
    algorithm = search_of(study).algorithm
    has_scores = any(each.is_finite for each in scores.values())
    return algorithm == "random" or (algorithm != "grid" and not has_scores)


def grid(study: Study) -> list[dict[str, Any]]:
    """Returns all combinations of a space of choices and whole numbers.

    They are ordered by the names of the hyperparameters, of which the last varies fastest: a study
    file that lists them otherwise has the same candidates.
    """
    axes = {
        name: each.choice if each.choice is not None else _whole_numbers(each)
        for name, each in sorted(dimensions(study).items())
    }
    return [
        {name: typed(name, value) for name, value in zip(axes, values, strict=True)}
        for values in itertools.product(*axes.values())
    ]


def _whole_numbers(values: SearchRange) -> list[int]:
    low, high = values.bounds
    return list(range(int(low), int(high) + 1))


def _shortened(value: Any, values: SearchRange) -> Any:  # noqa: ANN401 a value
    has_bounds = values.log is not None or values.uniform is not None
    return rounded(value, values) if has_bounds else value


def _tried(candidate: Candidate, *, scores: Mapping[At, Score], worst: float) -> dict[str, Any]:
    """Returns a candidate as a searcher is told of it: its values, and a score for each rung.

    A rung that diverged, or was never reached by a candidate that did, counts as the worst.
    """
    found = [scores.get((candidate.number, steps)) for steps in candidate.rungs]
    rungs = [each.badness if each and math.isfinite(each.badness) else worst for each in found]
    return {"values": dict(candidate.values), "rungs": rungs}


def _ask(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Asks a searcher in a process of its own, as some of them load torch."""
    ended = subprocess.run(  # noqa: S603 our own
        module_command("orchestrator.search.ask"),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["it printed nothing"]
        raise SearcherError(f"the searcher {request['algorithm']} has failed: {lines[-1]}")
    answer: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return answer
