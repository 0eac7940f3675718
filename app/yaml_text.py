"""YAML of a person's making: read safely, and what is wrong with it said in one line."""

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it

_CANNOT_BE = "a value that cannot be, such as a date that there is not"


class _Loader(_Base):
    """PyYAML lets out what its makers of values stumble over (2026-02-30: a bare ValueError), without the place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            raise yaml.constructor.ConstructorError(problem=_CANNOT_BE, problem_mark=node.start_mark) from None


def parse_yaml(content: bytes) -> Any:
    """The document. Raises ValueError, with one line that names the place but not what stands there."""
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        fault = f"has {_CANNOT_BE}" if problem == _CANNOT_BE else "is no YAML"
        raise ValueError(f"line {mark.line + 1} {fault}" if mark else f"it {fault}") from None
