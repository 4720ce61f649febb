"""Parses YAML so that numbers and repeated fields mean what users expect."""

import re
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
            exist (the 99th of a month), a name has characters that no file can have, or the text
            stands for too many values or nests them too deeply.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 a SafeLoader


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

    It refuses a field that occurs twice in a mapping. PyYAML alone keeps the last one silently.
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

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 PyYAML's signature
        """Returns a value."""
        if isinstance(node, yaml.ScalarNode) and (found := _NEVER_TEXT.search(node.value)):
            raise _refusal(node, f"the character {found[0]!r} is not allowed")
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            raise _refusal(node, f"the value cannot be read: {error}") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 PyYAML's signature
        """Returns a mapping's fields."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _refusal(key, f"the field {key.value!r} occurs twice in one mapping")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_NEVER_TEXT = re.compile("[\0\ud800-\udfff]")
"""No path has the first, and no encoding the others, which are halves of a pair."""

_Loader.add_implicit_resolver(
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
