"""Methods that keep the contract, and methods that break one part each."""

from importlib.resources import files
from pathlib import Path

import pytest

from eval.digests import sha256_of_file
from workers.contract.method_check import check_method
from workers.contract.report import MethodQuestion, MethodReport
from workers.specs.own_method import file_source

BEGINNING = '''
from dataclasses import dataclass, field
import torch
from merge.catalogue import MethodCard
from merge.own import OwnMethod
from merge.parameters.method_params import SCALING, MethodParams
from merge.protocols import Method
from merge.ranges import Count, allow
from merge.weight import by_block

@dataclass(frozen=True, kw_only=True)
class Params(MethodParams):
    """None."""

def combine(weight, *, recipe):
    return weight.base() + weight.sum_of_task_vectors()

CARD = {"title": "Made", "paper": "none", "params": Params}
'''
ENDING = "\nMade = OwnMethod(card=MethodCard(**CARD), functions=Method(combine=combine))\n"
KEEPING = """
def measure_group(weights, *, recipe):
    return {weight.name: list(weight.task_vectors()) for weight in weights}

def combine(weight, *, recipe):
    return weight.base() + sum(recipe.group_result[weight.name])

Made = OwnMethod(
    card=MethodCard(**CARD), functions=Method(combine=combine, measure_group=measure_group)
)
"""
LEARNING = """
def learn(weights, *, recipe, probe):
    gradient = probe.gradient(
        ((each.name, each.base()) for each in weights), loss="entropy", batch=0, batch_size=4
    )
    return {name: each.sign() for name, each in gradient.items()}

def combine(weight, *, recipe):
    step = recipe.group_result.get(weight.name, torch.zeros(()))
    return weight.base() + weight.sum_of_task_vectors() - 0.01 * step

Made = OwnMethod(
    card=MethodCard(**CARD, data_use="unlabelled_test"),
    functions=Method(combine=combine, learn=learn),
)
"""
PER_TASK = """
def combine_for_task(weight, task, *, recipe):
    return weight.expert(task).clone()

Made = OwnMethod(
    card=MethodCard(**CARD, is_per_task=True),
    functions=Method(combine=combine, combine_for_task=combine_for_task),
)
"""


OURS = """
from merge.catalogue import CARDS
from merge.table import METHODS
Made = OwnMethod(card=CARDS["{0}"], functions=METHODS["{0}"])
"""


def of(body: str) -> str:
    """Returns a method whose `combine` returns an expression."""
    return f"def combine(weight, *, recipe):\n    return {body}\n{ENDING}"


BROKEN = {
    "wrong shape": (of("weight.base().flatten().clone()"), "tensors", "the shape is (162,)"),
    "NaN": (
        of("weight.base() + weight.task_vector(0) * (0 * weight.task_vector(0).norm()).log()"),
        "tensors",
        "NaN or inf",
    ),
    "dtype": (of("weight.base().double()"), "tensors", "the dtype is float64"),
    "depends on order": (of("weight.expert(0).clone()"), "order", "another order"),
    "keeps all experts": (KEEPING, "memory", "of its model"),
    "changes its inputs": (of("weight.base().add_(1)"), "inputs", "in place"),
    "returns an input": (of("weight.base()"), "inputs", "itself"),
    "random": (of("weight.base() + torch.randn(weight.shape)"), "seed", "with one seed differ"),
    "uses the seed in secret": (
        of("weight.base() + recipe.seed"),
        "seed",
        "the card does not say so",
    ),
    "no tensor": (of("None"), "tensors", "NoneType"),
    "data without a card": (
        f"CARD['data_use'] = 'labelled_train'\n{ENDING}",
        "card",
        "has no `learn`",
    ),
    "no range": (
        (
            "@dataclass(frozen=True, kw_only=True)\nclass Params(MethodParams):\n    k: int = 1\n"
            f"CARD['params'] = Params\n{ENDING}"
        ),
        "card",
        "range",
    ),
    "no such name": ("Other = 1\n", "loads", "Made is nothing"),
    "hashes": (
        (
            "def combine(weight, *, recipe):\n"
            "    generator = torch.Generator().manual_seed(abs(hash((recipe.seed, weight.name))))\n"
            "    return weight.base() + torch.randn(weight.shape, generator=generator)\n"
            f"CARD['is_random'] = True\n{ENDING}"
        ),
        "hashes",
        "hashes of texts",
    ),
    "changes its inputs for a task": (
        PER_TASK.replace("weight.expert(task)", "weight.expert(task).add_(1)"),
        "inputs",
        "in place",
    ),
    "returns an input for a task": (PER_TASK.replace(".clone()", ""), "inputs", "itself"),
    "an object for its class": (f"CARD['params'] = Params()\n{ENDING}", "card", "Params()"),
    "another class": (f"class P: pass\nCARD['params'] = P\n{ENDING}", "card", "params is"),
    "data that do not exist": (f"CARD['data_use'] = 'unlabeled'\n{ENDING}", "card", "'unlabeled'"),
    "no expert": (f"CARD['num_experts'] = 0\n{ENDING}", "card", "num_experts is 0"),
    "too many experts": (f"CARD['num_experts'] = 10**6\n{ENDING}", "card", "num_experts is"),
    "a function for functions": (
        "Made = OwnMethod(card=MethodCard(**CARD), functions=combine)\n",
        "card",
        "the functions are <function",
    ),
    "an exit": (f"raise SystemExit(3)\n{ENDING}", "loads", "SystemExit: 3 (line"),
    "an exit while merging": (of("exit(3)"), "tensors", "SystemExit: 3"),
    "missing package": ("import no_such_package\n", "loads", "No module named"),
    "an error": (of("weight.bass()"), "tensors", "(line 20 of"),
}


def report_on(text: str, *, folder: Path) -> MethodReport:
    """Returns the report on the method `Made` in a file."""
    path = folder / "made.py"
    path.write_text(text)
    source = file_source(sha256_of_file(path))
    return check_method(MethodQuestion(name="Made", source=source, path=str(path)))


@pytest.mark.parametrize("text", [ENDING, LEARNING, PER_TASK], ids=["plain", "data", "per task"])
def test_methods_that_keep_the_contract(text: str, tmp_path: Path) -> None:
    """They pass every check, and are described for the driver."""
    report = report_on(BEGINNING + text, folder=tmp_path)
    assert not report.broken, report.broken
    assert report.spec is not None
    assert MethodReport.from_json(report.to_json()) == report


@pytest.mark.parametrize("fault", BROKEN)
def test_methods_that_break_the_contract(fault: str, tmp_path: Path) -> None:
    """The check that finds the fault says what is wrong and what would be right."""
    text, check, found = BROKEN[fault]
    report = report_on(BEGINNING + text, folder=tmp_path)
    assert report.spec is None
    broken = {line.name: line.found for line in report.broken}
    assert found in broken[check], broken
    assert report.remedies[check]


@pytest.mark.parametrize(
    "name", ["average", "magmax", "breadcrumbs", "pcb", "iso_cts", "emr", "fisher", "regmean"]
)
def test_methods_of_the_catalogue_keep_the_contract(name: str, tmp_path: Path) -> None:
    """Entrywise, spectral, per task and with data: none needs to declare anything."""
    report = report_on(BEGINNING + OURS.format(name), folder=tmp_path)
    assert not report.broken, report.broken
    assert report.spec is not None


def test_the_template_keeps_the_contract(tmp_path: Path) -> None:
    """Its memory does not grow by a model for each expert."""
    text = (files("orchestrator.study") / "templates" / "my_method.txt").read_text("utf-8")
    report = report_on(text.replace("Median =", "Made ="), folder=tmp_path)
    assert [line.name for line in report.lines if not line.is_kept] == []
    found = {line.name: line.found for line in report.lines}
    assert found["memory"].startswith("each further expert takes")
