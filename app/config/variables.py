"""Declares the fields of settings: which variable each one is read from."""

from collections.abc import Callable
from dataclasses import field
from typing import Any


def var(
    name: str, default: str, meaning: str, parser: Callable[[str], Any] = str, secret: bool = False
) -> Any:
    """A field that is read from the variable `name`; `default` is written as the environment would
    have it.
    """
    return field(
        metadata={"name": name, "default": default, "meaning": meaning, "parser": parser},
        repr=not secret,
    )
