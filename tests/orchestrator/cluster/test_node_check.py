from pathlib import Path

import pytest

from orchestrator.cluster.node_check import WORKER_PACKAGES, check_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray")]


def test_node_that_has_everything_has_no_problem(tmp_path: Path) -> None:
    """It has the packages, a path of the study, and a store that it can write to."""
    found = check_nodes(paths={"tasks.root": str(tmp_path)}, store_url=str(tmp_path / "store"))
    assert (found.num_nodes, found.problems) == (1, ())
    assert not list((tmp_path / "store").rglob("*.json"))


def test_all_problems_of_a_node_are_reported_at_once(tmp_path: Path) -> None:
    """Paths are named with their fields; the store's error is quoted."""
    (tmp_path / "file").touch()
    paths = {"tasks.root": "/no/such/root", "backbone.weights": "/no/such/file"}
    found = check_nodes(paths=paths, store_url=str(tmp_path / "file" / "store"))
    absent, store = found.problems
    assert absent.endswith("not there: tasks.root /no/such/root, backbone.weights /no/such/file")
    assert "the store cannot be used: " in store
    assert all(problem.startswith("on node ") for problem in found.problems)


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """All are named; the store is not tried, as that needs our packages."""
    packages = (*WORKER_PACKAGES, "no_such_package", "nor_this_one")
    found = check_nodes(paths={}, store_url=str(tmp_path), packages=packages)
    (problem,) = found.problems
    assert problem.endswith(": not installed: no_such_package, nor_this_one")


def test_missing_methods_of_users_are_named(tmp_path: Path) -> None:
    """With the distribution and version that the study was planned with."""
    methods = {"mine": "my-methods==1.2"}
    found = check_nodes(paths={}, store_url=str(tmp_path / "store"), methods=methods)
    (problem,) = found.problems
    assert "the method package:mine of my-methods==1.2 is not installed; it has none" in problem
