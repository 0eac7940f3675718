"""YAML of a person's making: read safely; what is wrong with it is said in one line that shows nothing of what stands there."""

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it

_CANNOT_BE = "a value that cannot be, such as a date that there is not"
_TWICE = "a name that its entry has already"
_SHOWN = 64  # characters of a field's name
_LIST = "expected a list, such as [one, two]"
_SENTENCES = {"tuple_type": _LIST, "list_type": _LIST, "model_type": "expected fields and their values, such as {id: one}"}


class _Loader(_Base):
    def get_single_node(self) -> yaml.Node | None:
        """PyYAML takes the last of two values of one name, and says nothing of the first."""
        node = super().get_single_node()
        _refuse_repeats(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML lets out what its makers of values stumble over (2026-02-30: a bare ValueError), without the place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            raise _fault(_CANNOT_BE, node) from None


def parse_yaml(content: bytes) -> Any:
    """The document. Raises ValueError, with one line that names the place but not what stands there."""
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        fault = f"has {problem}" if problem in (_CANNOT_BE, _TWICE) else "is no YAML"
        raise ValueError(f"line {mark.line + 1} {fault}" if mark else f"it {fault}") from None


def fault_of(error: ValidationError) -> str:
    """The first of a model's faults, with the field's name: `aliases: expected a list`."""
    first = error.errors(include_input=False)[0]
    field = ascii(".".join(str(part)[:_SHOWN] for part in first["loc"]))[1:-1]  # a name may hold a line's end too
    own = f"expected {first['ctx']['error']}" if first["type"] == "value_error" else first["msg"]
    return f"{field + ': ' if field else ''}{_SENTENCES.get(first['type'], own)}"


def _fault(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


def _refuse_repeats(top: yaml.Node | None) -> None:
    waiting, seen = [top], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue  # an anchor: it is met again wherever it is used
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_names(node)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _refuse_repeated_names(mapping: yaml.MappingNode) -> None:
    names: set[tuple[str, str]] = set()
    for name, _ in mapping.value:
        if isinstance(name, yaml.ScalarNode):
            if (name.tag, name.value) in names:
                raise _fault(_TWICE, name)
            names.add((name.tag, name.value))
