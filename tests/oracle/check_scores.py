"""Scores merges that the peers made in a study's tables: `make oracle`, no part of `make test`.

The peers merge the experts of a small study that was really run. Their average and their task
arithmetic stand in its tables beside the study's own merges, with the same sums.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from cases import CASES
from click.testing import CliRunner
from in_process import run_in_process
from known_models import remember_models
from run_peers import HERE, run_requests
from safetensors.torch import save_file

from orchestrator.cli.command_line import cli
from workers.artifacts.node_cache import CACHE_VARIABLE

GROUP = "3x00"
PEERS = ("fusion_bench", "mergekit")
METHODS = ("average", "task_arithmetic")
SCALING = 0.3
"""The scaling of both peers' cases of task arithmetic."""
TOLERANCE = 1e-6
"""Largest relative difference of a sum of losses: peers add the experts in another order."""


class Scored(NamedTuple):
    """The result table of the study, and its sums."""

    rows: list[dict[str, Any]]
    external: dict[str, dict[str, Any]]
    """Sums by task of each external model, by label."""
    own: dict[str, dict[str, Any]]
    """Sums by task of the study's own merges, by method."""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scored]:
    """Runs the study, has its experts merged by the peers, and scores the merges."""
    root = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(root / "cache"))
        remember_models(root / "cache")
        opened, workspace = run_in_process(
            {
                "name": "peers",
                "backbone": {"model": "test_vit", "weights": "none", "image_size": 160},
                "tasks": {
                    "names": ["emoji_objects", "font_letters", "mnist_5k"],
                    "max_train": 64,
                    "max_test": 64,
                },
                "finetune": {"defaults": {"steps": 10, "batch_size": 8, "lr": 0.01}},
                "groups": {"size": 3},
                "merge": [
                    {"method": "average", "label": "average"},
                    {"method": "task_arithmetic", "scaling": SCALING, "label": "task_arithmetic"},
                ],
                "store": str(root / "store"),
            }
        )
        merge = next(iter(opened.plan.merges.values()))
        files = {"base": workspace.base_tensors(merge.base_id)}
        files |= {
            f"expert_{n}": workspace.expert_tensors(expert.id)
            for n, expert in enumerate(merge.experts)
        }
        for name, tensors in files.items():
            save_file(dict(tensors), root / f"{name}.safetensors")
        experts = [str(root / f"{name}.safetensors") for name in list(files)[1:]]
        outputs = []
        for peer in PEERS:
            (root / peer).mkdir()
            requests = []
            for method in METHODS:
                theirs, parameters = CASES[f"{peer} {method}"].theirs
                outputs.append(root / peer / f"{peer}-{method}.safetensors")
                requests.append(
                    {
                        "method": theirs,
                        "parameters": dict(parameters),
                        "base": str(root / "base.safetensors"),
                        "experts": experts,
                        "out": str(outputs[-1]),
                    }
                )
            script = HERE / f"peer_{peer}.py"
            assert run_requests(script, requests=requests, directory=root / peer) == [None, None]
        store = ("--store", opened.store_url)
        result = CliRunner().invoke(cli, ["score", "peers", *map(str, outputs), *store])
        assert result.exit_code == 0, result.output
        folder = root / "store" / "studies" / "peers"
        external = json.loads((folder / "external.json").read_bytes())["scores"]
        merges = opened.ledger.committed().merges
        yield Scored(
            rows=pq.read_table(folder / "results.parquet").to_pylist(),
            external={each["label"]: each["tasks"] for each in external},
            own={cell.label: merges[cell.merge.id].metrics["tasks"] for cell in opened.plan.cells},
        )


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_peers_merge_has_the_sums_of_our_own(scored: Scored, peer: str, method: str) -> None:
    """As many correct answers on every task, and the same sums of losses up to rounding."""
    theirs, ours = scored.external[f"{peer}-{method}"], scored.own[method]
    assert theirs.keys() == ours.keys()
    for task, sums in ours.items():
        assert theirs[task]["num_examples"] == sums["num_examples"]
        assert theirs[task]["num_correct"] == sums["num_correct"]
        assert theirs[task]["loss_sum"] == pytest.approx(sums["loss_sum"], rel=TOLERANCE)


def test_the_two_methods_have_different_sums(scored: Scored) -> None:
    """The comparison above would notice one in the place of the other."""
    average, arithmetic = (scored.own[method] for method in METHODS)
    for task, sums in average.items():
        assert sums["loss_sum"] != pytest.approx(arithmetic[task]["loss_sum"], rel=10 * TOLERANCE)


def test_all_stand_in_one_table(scored: Scored) -> None:
    """The peers' rows follow ours, marked by the digests of their files."""
    methods = list(dict.fromkeys(row["method"] for row in scored.rows))
    assert methods == [*METHODS, *(f"{peer}-{method}" for peer in PEERS for method in METHODS)]
    assert [row["external"] is not None for row in scored.rows] == [False] * 10 + [True] * 20
