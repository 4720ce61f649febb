"""Parses and writes YAML so that numbers and repeated fields mean what users expect."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Most values of a text with every alias written out. A few lines of aliases of aliases stand for
more values than any memory holds."""
MAX_DEPTH = 100
"""Most levels of nesting, aliases not followed: few enough for Python's stack in any process."""


def load_yaml(text: str) -> Any:  # noqa: ANN401 any YAML value
    """Returns the value of a YAML text.

    Raises:
        yaml.YAMLError: The text is not YAML, a field occurs twice in a mapping, a value does not
            exist (the 99th of a month), a number has leading zeros or colons, a name has characters
            that no file can have, or the text stands for too many values or nests them too deeply.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 a SafeLoader


def dump_yaml(values: Mapping[str, Any], **layout: Any) -> str:  # noqa: ANN401 PyYAML's options
    """Returns YAML that `load_yaml` reads as the same values, the fields in their order.

    PyYAML alone writes the text `1e3` without quotes, which YAML 1.2 reads as a number.
    """
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, **layout))


def yaml_fault(error: yaml.YAMLError) -> str:
    """Returns in one line the place and the kind of an error of `load_yaml`."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    words = ": ".join(part for part in (error.context, error.problem) if part)
    return f"{place}{' '.join(words.split())}"


class _Loader(yaml.SafeLoader):
    """A loader with the numbers of YAML 1.2: PyYAML alone reads `1e-4` as a string.

    It refuses numbers that PyYAML reads otherwise than YAML 1.2: `0100` as 64 and `1:30` as 90. And
    it refuses a field that occurs twice in a mapping; PyYAML alone keeps the last one silently.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        """Returns the text as a tree, in which aliases are references."""
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 PyYAML's signature
        """Returns the tree of the next value."""
        if self._depth == MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 PyYAML's signature
        """Returns the tree of a mapping as it is written: merge keys (`<<`) add fields later."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _refusal(key, f"the field {key.value!r} occurs twice in one mapping")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 PyYAML's signature
        """Returns a value."""
        if isinstance(node, yaml.ScalarNode) and (found := _NEVER_TEXT.search(node.value)):
            raise _refusal(node, f"the character {found[0]!r} is not allowed")
        if node.tag in _NUMBERS and (found := _TWO_NUMBERS.fullmatch(node.value)):
            kind, other = ("base 60", "text") if found["base60"] else ("octal", "decimal")
            raise _refusal(
                node,
                f"{node.value} is {kind} in YAML 1.1 and {other} in YAML 1.2; write a "
                "number in decimal digits without leading zeros, and text in quotes",
            )
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            raise _refusal(node, f"the value cannot be read: {error}") from error


_NEVER_TEXT = re.compile("[\0\ud800-\udfff]")
"""No path has the first, and no encoding the others, which are halves of a pair."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TWO_NUMBERS = re.compile(r"[-+]?(0[0-7_]+|(?P<base60>[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?))")
"""Numbers of base 8 and base 60, which only YAML 1.1 has."""


class _Dumper(yaml.SafeDumper):
    """A writer that puts texts in quotes which `_Loader` would read as numbers."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def _refusal(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_size(root: yaml.Node) -> None:
    """Raises an error for a tree that contains itself, or stands for too many values."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        found = sizes[id(node)]
        if found is None:
            raise _refusal(node, "the value contains itself by an alias")
        if found > MAX_VALUES:
            raise _refusal(node, f"it stands for more than {MAX_VALUES:,} values")
        return found

    size(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
