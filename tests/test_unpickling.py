"""Checks that no module unpickles content of a store: its writers could run code on readers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "workers", "merge", "eval")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

# Libraries that can run code while they read. `pickle` may be imported, for its error class.
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
UNSAFE_CALLS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler"),
    *("cloudpickle.load", "cloudpickle.loads"),
    *("pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load"),
}
# Calls that are safe only with the given argument.
SAFE_ONLY_WITH = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "numpy.load": "allow_pickle=False",
    "yaml.load": "Loader=_Loader",
}
ALLOWED = {
    # Reads the error that Ray Tune wrote on this machine for a failed trial of this run.
    ("orchestrator/cluster/slot_trainings.py", "ray.cloudpickle.loads"),
}


def unsafe_reads(source: str) -> Iterator[str]:
    """Yields the calls and imports in a module that could run code from the content they read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in UNSAFE_CALLS or name.partition(".")[2] in UNSAFE_CALLS:
                yield name
            elif name in SAFE_ONLY_WITH:
                given = {f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords}
                if SAFE_ONLY_WITH[name] not in given:
                    yield name
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module in UNSAFE_MODULES | {"pickle"} or node.module.endswith(".cloudpickle"):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in UNSAFE_MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_unpickles_what_it_reads(path: Path) -> None:
    """No module reads a format that can run code: only safetensors, Parquet, Arrow, JSON, YAML."""
    name = path.relative_to(ROOT).as_posix()
    found = {(name, call) for call in unsafe_reads(path.read_text("utf-8"))}
    assert found - ALLOWED == set()


def test_every_exception_is_needed() -> None:
    """Every allowed call still exists: a stale entry would excuse new code."""
    for name, call in ALLOWED:
        assert call in set(unsafe_reads((ROOT / name).read_text("utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(store.get(key))",
        "with open(p) as f: pickle.load(f)",
        "ray.cloudpickle.loads(content)",
        "from pickle import loads",
        "import dill",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "from ray.cloudpickle import loads",
    ],
)
def test_unsafe_reads_are_recognised(source: str) -> None:
    """The search finds each usual way to unpickle content."""
    assert len(list(unsafe_reads(source))) == 1


def test_safe_reads_are_not() -> None:
    """The search accepts safe loads, pickling, and an import of `pickle` for its error class."""
    source = "import pickle\ntorch.load(p, weights_only=True)\njson.loads(t)\npickle.dumps(x)"
    assert list(unsafe_reads(source)) == []
