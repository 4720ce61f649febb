"""Parses YAML so that numbers and repeated fields mean what users expect."""

import re
from typing import Any

import yaml


def load_yaml(text: str) -> Any:  # noqa: ANN401 any YAML value
    """Returns the value of a YAML text.

    Raises:
        yaml.YAMLError: The text is not YAML, or a field occurs twice in a mapping.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 a SafeLoader


class _Loader(yaml.SafeLoader):
    """A loader with the numbers of YAML 1.2: PyYAML alone reads `1e-4` as a string.

    It refuses a field that occurs twice in a mapping. PyYAML alone keeps the last one silently.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 PyYAML's signature
        """Returns a mapping's fields."""
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1 and isinstance(key, yaml.ScalarNode):
                message = f"the field {key.value!r} occurs twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
