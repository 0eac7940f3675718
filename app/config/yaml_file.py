"""YAML of a person's making: read safely; what is wrong with it is said in one line that shows
nothing else of it than ids.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    _BaseLoader = yaml.SafeLoader
else:
    # ten times as fast, where PyYAML has it
    _BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Entry = TypeVar("Entry", bound=BaseModel)

_IMPOSSIBLE_VALUE = "a value that cannot be, such as a date that there is not"
_DUPLICATE_NAME = "a name that its entry has already"
_MAX_NAME_CHARS = 64  # characters of a field's or an entry's name
_LIST_EXPECTED = "expected a list, such as [one, two]"
_TAB_FOUND = "a tab stands there, and only spaces may indent"
_MESSAGES_BY_ERROR_TYPE = {
    "extra_forbidden": "there is no such field",
    "tuple_type": _LIST_EXPECTED,
    "list_type": _LIST_EXPECTED,
    "model_type": "expected fields and their values, such as {id: one}",
}


class _Loader(_BaseLoader):
    def get_single_node(self) -> yaml.Node | None:
        """PyYAML takes the last of two values of one name, and says nothing of the first."""
        node = super().get_single_node()
        _refuse_duplicates(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML lets out what its makers of values stumble over (2026-02-30: a bare ValueError),
        without the place.
        """
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            raise _make_yaml_error(_IMPOSSIBLE_VALUE, node) from None


def parse_entries(content: bytes, kind: str, model: type[Entry]) -> list[Entry]:
    """What the document lists, as `keys` those of the kind `key`. Raises ValueError, with one line
    that names the place.
    """
    document = _load_yaml(content)
    listed = document.get(f"{kind}s") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"it has no list `{kind}s`")
    return [_validate_entry(raw, number, kind, model) for number, raw in enumerate(listed, 1)]


def describe_entry(kind: str, number: int, id_: str) -> str:
    """An entry, for a message: its place in the list, and its id."""
    return f"{kind} {number} ({id_[:_MAX_NAME_CHARS]!r})"


def _validate_entry(raw: Any, number: int, kind: str, model: type[Entry]) -> Entry:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        id_ = raw.get("id") if isinstance(raw, dict) else None
        which = describe_entry(kind, number, id_) if isinstance(id_, str) else f"{kind} {number}"
        raise ValueError(
            f"{which}: {_describe_first_error(error)}{_suggest_field(error, model)}"
        ) from None


def _load_yaml(content: bytes) -> Any:
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        if mark is None:
            raise ValueError("it is no YAML") from None
        if problem in (_IMPOSSIBLE_VALUE, _DUPLICATE_NAME):
            raise ValueError(f"line {mark.line + 1} has {problem}") from None
        cause = _TAB_FOUND if _is_tab(content, mark.line, mark.column) else problem
        raise ValueError(
            f"line {mark.line + 1}, column {mark.column + 1}: it is no YAML: {cause}"
        ) from None


def _is_tab(content: bytes, line: int, column: int) -> bool:
    lines = content.decode(errors="replace").splitlines()
    return line < len(lines) and "\t" in lines[line][: column + 1]


def _suggest_field(error: ValidationError, model: type[BaseModel]) -> str:
    """Return a hint for the first fault, where it is a field's name that resembles another's."""
    first = error.errors(include_input=False)[0]
    if first["type"] != "extra_forbidden":
        return ""
    close = get_close_matches(str(first["loc"][-1])[:_MAX_NAME_CHARS], model.model_fields, n=1)
    return (
        f"; did you mean {close[0]}?" if close else f"; there are {', '.join(model.model_fields)}"
    )


def _describe_first_error(error: ValidationError) -> str:
    """The first of a model's faults, with the field's name: `aliases: expected a list`."""
    first = error.errors(include_input=False)[0]
    # a name may hold a line's end too
    field = ascii(".".join(str(part)[:_MAX_NAME_CHARS] for part in first["loc"]))[1:-1]
    default_message = (
        f"expected {first['ctx']['error']}" if first["type"] == "value_error" else first["msg"]
    )
    message = _MESSAGES_BY_ERROR_TYPE.get(first["type"], default_message)
    return f"{field}: {message}" if field else message


def _make_yaml_error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


def _refuse_duplicates(top: yaml.Node | None) -> None:
    pending_nodes, seen = [top], set()
    while pending_nodes:
        node = pending_nodes.pop()
        if id(node) in seen:
            continue  # an anchor: it is met again wherever it is used
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicate_names(node)
            pending_nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending_nodes += node.value


def _refuse_duplicate_names(mapping: yaml.MappingNode) -> None:
    names: set[tuple[str, str]] = set()
    for name, _ in mapping.value:
        if isinstance(name, yaml.ScalarNode):
            if (name.tag, name.value) in names:
                raise _make_yaml_error(_DUPLICATE_NAME, name)
            names.add((name.tag, name.value))
