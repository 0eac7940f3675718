"""Reading what people write as YAML: its faults in one line each, which shows nothing of what stands there."""

from typing import Any

import yaml
from pydantic import ValidationError

_SHOWN = 64  # characters of a field's name
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it; both are the safe ones
_LIST = "expected a list, such as [one, two]"
_SENTENCES = {"tuple_type": _LIST, "list_type": _LIST, "model_type": "expected fields and their values, such as {id: one}"}


def parse_yaml(content: bytes) -> Any:
    """The document. Raises ValueError with its fault: no YAML, or a name that stands twice in one place."""
    try:
        loader = _LOADER(content)
        node = loader.get_single_node()
        _refuse_repeats(node)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"line {mark.line + 1} is no YAML" if mark else "it is no YAML") from None
    except _Repeated:
        raise
    except ValueError:  # not its encoding, or a value that cannot be, such as the date 2026-02-30
        raise ValueError("it is no YAML: a character or a value that cannot be") from None


def fault_of(error: ValidationError) -> str:
    """The first of a model's faults, with the field's name: `aliases: expected a list`."""
    first = error.errors(include_input=False)[0]
    field = ascii(".".join(str(part)[:_SHOWN] for part in first["loc"]))[1:-1]  # a name may hold a line's end too
    own = f"expected {first['ctx']['error']}" if first["type"] == "value_error" else first["msg"]
    return f"{field + ': ' if field else ''}{_SENTENCES.get(first['type'], own)}"


class _Repeated(ValueError):
    """A name stands twice in one place."""


def _refuse_repeats(top: Any) -> None:
    """PyYAML would take the last one, and say nothing of the others."""
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
                raise _Repeated(f"line {name.start_mark.line + 1} has a name that its entry has already")
            names.add((name.tag, name.value))
