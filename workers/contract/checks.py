"""The contract of merging methods: one function for each part, on small random models.

Every function returns the finding in words, and raises `BrokenError` if the method breaks the part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from merge.catalogue import DataUse, MethodCard
from merge.merge import MergeOptions, merge, merge_tasks, open_merge
from merge.own import OwnMethod, named
from merge.parameters.method_params import MethodParams
from merge.protocols import Method
from merge.table import functions_of
from merge.weight import State
from workers.contract.memory import grown_bytes
from workers.contract.states import LazyState, RandomProbe, random_base, random_experts
from workers.specs.own_method import OwnMethodSpec

NUM_EXPERTS = 4
"""Experts of most checks, unless the method merges another number."""
NUM_TENSORS, NUM_ENTRIES = 16, 1 << 18
"""The model on which memory is measured: 16 MB of float32."""
FEW_EXPERTS, MANY_EXPERTS = 2, 10
MAX_EXPERTS = 1000
CARD = "card"
MAX_SHARE = 0.5
"""The most memory that one more expert may take, as a share of its model. A method that holds all
experts of one tensor at a time takes a few sixteenths; one that holds all models takes 1."""
TOLERANCE = 1e-4
"""Difference that rounding may make, relative to the greatest entry of the tensor's task vectors.
Float32 sums of a few task vectors differ by 1e-6."""


class BrokenError(Exception):
    """A method breaks a part of the contract; the message has the fault."""

    def __init__(self, fault: str, *, remedy: str) -> None:
        super().__init__(fault)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A method with its default parameters, ready to be tried."""

    method: OwnMethod
    card: MethodCard

    @staticmethod
    def of(method: OwnMethod, *, name: str) -> "Tried":
        """Returns a method under its name."""
        card = named(name, card=method.card, functions=method.functions)
        return Tried(method=method, card=card)

    @property
    def num_experts(self) -> int:
        """The number of experts to merge."""
        return self.params.num_experts or self.card.num_experts or NUM_EXPERTS

    @property
    def params(self) -> MethodParams:
        """The default parameters."""
        return self.card.params()

    def options(self, tasks: Sequence[int], *, seed: int = 0, num_threads: int = 1) -> MergeOptions:
        """Returns the options of a merge of the experts of some tasks, by their numbers."""
        probe = RandomProbe(tasks=tuple(tasks)) if self.card.data_use != "none" else None
        return MergeOptions(params=self.params, seed=seed, num_threads=num_threads, probe=probe)

    def merged(
        self,
        experts: Sequence[State],
        *,
        tasks: Sequence[int] | None = None,
        seed: int = 0,
        num_threads: int = 1,
    ) -> dict[str, tuple[Tensor, ...]]:
        """Returns the merged tensors by name: of the one model, then of the model of every task."""
        base = random_base()
        options = self.options(tasks or range(len(experts)), seed=seed, num_threads=num_threads)
        found: dict[str, tuple[Tensor, ...]] = {
            name: (each,) for name, each in merge(base, experts, options=options)
        }
        if self.card.is_per_task:
            of_tasks = merge_tasks(base, experts, tasks=range(len(experts)), options=options)
            found = {name: (*found[name], *each) for name, each in of_tasks}
        return found


def check_declaration(method: OwnMethod) -> None:
    """Checks that a card and the functions have the declared types, before anything uses them.

    Raises:
        BrokenError: A field holds something else.
    """
    card, num = method.card, method.card.num_experts
    of_class, uses = card.params, get_args(DataUse)
    wrong = {
        "title": (card.title, isinstance(card.title, str), "a text"),
        "paper": (card.paper, isinstance(card.paper, str), "a text"),
        "params": (
            of_class,
            isinstance(of_class, type) and issubclass(of_class, MethodParams),
            "a subclass of MethodParams, not an object",
        ),
        "data_use": (card.data_use, card.data_use in uses, f"one of {', '.join(uses)}"),
        "num_experts": (
            num,
            num is None or (type(num) is int and 1 <= num <= MAX_EXPERTS),
            f"None, or a whole number from 1 to {MAX_EXPERTS}",
        ),
        "is_random": (card.is_random, isinstance(card.is_random, bool), "True or False"),
        "is_per_task": (card.is_per_task, isinstance(card.is_per_task, bool), "True or False"),
    }
    for name, (value, is_right, expected) in wrong.items():
        if not is_right:
            raise BrokenError(f"the card's {name} is {value!r}", remedy=f"it must be {expected}")
    if not isinstance(method.functions, Method) or not callable(method.functions.combine):
        raise BrokenError(
            f"the functions are {method.functions!r}",
            remedy="OwnMethod takes functions=Method(combine=...) with a function `combine`",
        )


def check_card(tried: Tried) -> str:
    """Checks that the card declares everything the functions need, and is read without the code."""
    card, functions = tried.card, tried.method.functions
    described = OwnMethodSpec.of(card, name="method", source="")
    if (functions.learn is not None) != (card.data_use != "none"):
        has = "has" if functions.learn is not None else "has no"
        raise BrokenError(
            f"the card's data_use is {card.data_use!r}, and the method {has} `learn`",
            remedy="a method that reads data has both, and any other has neither",
        )
    if (functions.combine_for_task is not None) != card.is_per_task:
        has = "has" if functions.combine_for_task is not None else "has no"
        raise BrokenError(
            f"the card's is_per_task is {card.is_per_task}, and the method {has} combine_for_task",
            remedy="a method with one model per task has both, and any other has neither",
        )
    if functions.deferred_entries is not None:
        raise BrokenError(
            "it has `deferred_entries`, which only methods of this package have",
            remedy="leave it out",
        )
    for name in ("num_experts", "revision", "reads_test_images"):
        if getattr(card.params, name) is not getattr(MethodParams, name):
            raise BrokenError(
                f"its parameters override {name}, which a study cannot see",
                remedy="leave it out; the card has num_experts and data_use",
            )
    names = ", ".join(f"{each.name}={each.default}" for each in described.parameters)
    return f"{card.title}, {names or 'no parameters'}"


def check_tensors(tried: Tried) -> str:
    """Checks shape, dtype and finite entries of the functions' results, before any rounding."""
    num = tried.num_experts
    base, experts = random_base(), random_experts(num)
    weights, recipe = open_merge(base, experts, options=tried.options(range(num)))
    functions = functions_of(tried.params)
    for weight in weights:
        results = [functions.combine(weight, recipe=recipe)]
        if functions.combine_for_task is not None:
            results += [functions.combine_for_task(weight, i, recipe=recipe) for i in range(num)]
        for result in results:
            _check_tensor(result, name=weight.name, shape=weight.shape)
    return f"{len(weights)} tensors of the base's shapes, float32, finite"


def _check_tensor(result: object, *, name: str, shape: torch.Size) -> None:
    if not isinstance(result, Tensor):
        raise BrokenError(
            f"{name}: `combine` returned an object of type {type(result).__name__}",
            remedy="return a tensor",
        )
    if result.shape != shape:
        raise BrokenError(
            f"{name}: the shape is {tuple(result.shape)}, and the weight's is {tuple(shape)}",
            remedy="return the weight's shape, including that of tensors with one dimension",
        )
    if result.dtype != torch.float32:
        raise BrokenError(
            f"{name}: the dtype is {str(result.dtype).removeprefix('torch.')}",
            remedy="return float32; the merge itself gives the base's dtype",
        )
    if not bool(result.isfinite().all()):
        raise BrokenError(
            f"{name}: it holds NaN or inf, though all inputs are finite",
            remedy="look for divisions by zero: some task vectors are zero, and some tensors have "
            "one entry",
        )


def check_group_sizes(tried: Tried) -> str:
    """Checks groups of several sizes, and experts that are all equal to the base."""
    sizes = [tried.num_experts] if tried.card.num_experts else [1, 2, 5]
    for size in sizes:
        for experts in (random_experts(size), [random_base()] * size):
            found = tried.merged(experts)
            for name, tensors in found.items():
                for tensor in tensors:
                    _check_tensor(tensor, name=f"{size} experts, {name}", shape=tensor.shape)
    return f"groups of {', '.join(map(str, sizes))}, also of unchanged experts"


def check_inputs(tried: Tried) -> str:
    """Checks that merging changes neither the base nor an expert."""
    num = tried.num_experts
    base, experts = random_base(), random_experts(num)
    options = tried.options(range(num))
    merged: dict[str, tuple[Tensor, ...]] = {
        name: (each,) for name, each in merge(base, experts, options=options)
    }
    if tried.card.is_per_task:
        of_tasks = merge_tasks(base, experts, tasks=range(num), options=options)
        merged = {name: (*merged[name], *each) for name, each in of_tasks}
    states = zip([base, *experts], [random_base(), *random_experts(num)], strict=True)
    for state, before in states:
        changed = [name for name in before if not torch.equal(state[name], before[name])]
        if changed:
            raise BrokenError(
                f"the merge changes {changed[0]} of the base or of an expert in place",
                remedy="make a new tensor first, as `weight.base().clone()`",
            )
    shared = [
        name
        for name, tensors in merged.items()
        if {tensor.data_ptr() for tensor in tensors}
        & {state[name].data_ptr() for state in (base, *experts)}
    ]
    if shared:
        raise BrokenError(
            f"{shared[0]}: the result is the tensor of the base or of an expert itself",
            remedy="return a new tensor, as `weight.base().clone()`",
        )
    return "base and experts stay as they were"


def check_seed(tried: Tried) -> str:
    """Checks that equal seeds give equal bits, and that only random methods use the seed."""
    experts = random_experts(tried.num_experts)
    first = tried.merged(experts, seed=1)
    if _differing(first, tried.merged(experts, seed=1)):
        raise BrokenError(
            "two merges with one seed differ",
            remedy="draw all random numbers from a generator seeded with recipe.seed and the "
            "tensor's name",
        )
    if _differing(first, tried.merged(experts, seed=1, num_threads=2)):
        raise BrokenError(
            "the result depends on the number of threads",
            remedy="keep no state between tensors, and seed a generator for each tensor",
        )
    if not tried.card.is_random and _differing(first, tried.merged(experts, seed=2)):
        raise BrokenError(
            "the result depends on the seed, and the card does not say so",
            remedy="set is_random=True on the card; studies use the seed only then",
        )
    return "equal seeds give equal bits, on one thread and on two"


def check_order(tried: Tried) -> str:
    """Checks that another order of the experts changes the result by rounding only."""
    if tried.method.depends_on_order:
        return "declared: the result depends on the order"
    num = tried.num_experts
    experts = random_experts(num)
    order = [*range(1, num), 0]
    forward = tried.merged(experts)
    turned = tried.merged([experts[each] for each in order], tasks=order)
    base = random_base()
    for name, (whole, *of_tasks) in forward.items():
        other, *others = turned[name]
        back = [others[order.index(task)] for task in range(len(of_tasks))]
        size = max(float((each[name] - base[name]).abs().max()) for each in experts)
        for one, two in zip((whole, *of_tasks), (other, *back), strict=True):
            if float((one - two).abs().max()) > TOLERANCE * size + TOLERANCE**2:
                raise BrokenError(
                    f"{name}: another order of the experts gives another result",
                    remedy="treat all experts alike, or declare OwnMethod(depends_on_order=True)",
                )
    return "the order of the experts changes rounding only"


def check_memory(tried: Tried) -> str:
    """Checks that memory does not grow by a model for each further expert."""
    if tried.card.num_experts is not None:
        return f"not measured: the method merges exactly {tried.card.num_experts} experts"
    few, many = (
        grown_bytes(partial(_merge_large, tried, num=num)) for num in (FEW_EXPERTS, MANY_EXPERTS)
    )
    if few is None or many is None:
        return "not measured: it takes too long, or this system does not tell peak memory"
    model_bytes = 4 * NUM_TENSORS * NUM_ENTRIES
    share = max(0, many - few) / (MANY_EXPERTS - FEW_EXPERTS) / model_bytes
    if share > MAX_SHARE:
        raise BrokenError(
            f"each further expert takes memory of {share:.2f} of its model",
            remedy="read experts tensor by tensor, with weight.experts(), weight.task_vectors() "
            "and merge.weight.by_block, and keep none of them",
        )
    return f"each further expert takes {share:.2f} of its model, at most {MAX_SHARE}"


def _merge_large(tried: Tried, *, num: int) -> None:
    noise = torch.randn(NUM_ENTRIES // 64, 64, generator=torch.Generator().manual_seed(0))
    states = [
        LazyState(num_tensors=NUM_TENSORS, noise=noise, factor=1 + number / 100)
        for number in range(num + 1)
    ]
    options = tried.options(range(num))
    if options.probe is not None:
        probe = RandomProbe(tasks=tuple(range(num)), weight="layer0.weight")
        options = replace(options, probe=probe)
    for _ in merge(states[0], states[1:], options=options):
        pass
    if tried.card.is_per_task:
        for _ in merge_tasks(states[0], states[1:], tasks=[0], options=options):
            pass


def _differing(
    one: Mapping[str, Sequence[Tensor]], other: Mapping[str, Sequence[Tensor]]
) -> list[str]:
    return [
        name for name, tensors in one.items() if not all(map(torch.equal, tensors, other[name]))
    ]


Check = Callable[[Tried], str]
"""Checks one part of the contract and returns the finding in words."""
CHECKS: Mapping[str, Check] = {
    CARD: check_card,
    "tensors": check_tensors,
    "groups": check_group_sizes,
    "inputs": check_inputs,
    "seed": check_seed,
    "order": check_order,
    "memory": check_memory,
}
"""The parts of the contract in their order, by the name that `mergesweep check-method` prints."""
