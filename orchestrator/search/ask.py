"""Asks Ray Tune's Optuna searcher for candidates: a process of its own, from JSON to JSON.

`searchers.py` writes the request to standard input and reads the answer from the last line of
standard output. Equal requests get equal answers.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

OBJECTIVE = "objective"
"""The name of the score, which is minimized."""


def answer(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the values of as many candidates as a request asks for.

    Under `tpe`, a candidate that halving stopped counts as pruned, with its score at each rung:
    Optuna ranks those that got further first. Under `gp`, which reads only finished candidates, its
    last score counts.
    """
    most_rungs = max(len(each["rungs"]) for each in request["tried"])
    is_gp = request["algorithm"] == "gp"
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.GPSampler(seed=request["seed"], n_startup_trials=2)
        if is_gp
        else optuna.samplers.TPESampler(
            seed=request["seed"],
            n_startup_trials=2,
            multivariate=True,
            constant_liar=True,  # the candidates of a batch keep away from one another
        )
    )
    searcher = OptunaSearch(sampler=sampler)
    space = {name: _domain(each) for name, each in request["space"].items()}
    searcher.set_search_properties(OBJECTIVE, "min", space)
    for each in request["tried"]:
        rungs = each["rungs"]
        searcher.add_evaluated_point(
            each["values"],
            rungs[-1],
            pruned=not is_gp and len(rungs) < most_rungs,
            intermediate_values=rungs,
        )
    return [dict(searcher.suggest(str(number)) or {}) for number in range(request["count"])]


def _domain(values: Mapping[str, list[Any]]) -> Any:  # noqa: ANN401 Tune has no type for it
    match values:
        case {"log": [low, high]}:
            return tune.loguniform(low, high)
        case {"uniform": [low, high]}:
            return tune.uniform(low, high)
        case {"int": [low, high]}:
            return tune.randint(low, high + 1)
        case {"choice": choices}:
            return tune.choice(choices)
    raise AssertionError(values)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")
