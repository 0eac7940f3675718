"""What a row of the table of endpoints is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from app.errors import GatewayError

# in an example: the first model there is, so that the example works as it stands
MODEL_PLACEHOLDER = "<model>"

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """One way in which an endpoint answers; with `chunk_schema`, the same as server-sent events if
    asked for.
    """

    schema: type[BaseModel]
    description: str
    example: Example
    chunk_schema: type[BaseModel] | None = None
    example_chunks: tuple[Example, ...] = ()  # the events of an example


@dataclass(frozen=True)
class Parameter:
    """A header or query parameter that we read."""

    name: str
    location: str  # header or query
    json_type: str  # its JSON type
    description: str


@dataclass(frozen=True)
class Endpoint:
    """One row of the table. `examples` are request bodies by name, `path_examples` values of the
    path's parameters.
    """

    method: str
    path: str
    tag: str
    summary: str
    description: str
    replies: Mapping[int, Reply]
    errors: tuple[type[GatewayError], ...]
    request_schema: type[BaseModel] | None = None
    examples: Mapping[str, Example] = field(default_factory=dict)
    # name: (description, values)
    path_examples: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    form_schema: type[BaseModel] | None = None  # of a body that may be multipart/form-data too
    parameters: tuple[Parameter, ...] = ()
    # all values of the path's one parameter, where they are known
    path_values: tuple[str, ...] = ()
