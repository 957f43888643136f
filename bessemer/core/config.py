"""Configuration: frozen dataclasses, filled from TOML or the command line, with errors in the user's words."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, TypeAdapter, ValidationError

C = TypeVar("C")

# The ranges that configs need; pydantic enforces them, tyro shows the plain type.
Count = Annotated[int, Gt(0)]
Whole = Annotated[int, Ge(0)]
Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]
Positive = Annotated[float, Gt(0.0)]


def runtime(default: Any) -> Any:
    """A field that changes how fast a stage runs but never its result, so it stays out of the artifact's identity."""
    return dataclasses.field(default=default, metadata={"runtime": True})


def parse(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build the dataclass `cls` from plain values. ValueError names the place, the value and what is allowed."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = [f.name for f in fields]
    for key in values:
        if key not in known:
            raise ValueError(unknown(f"{where}.{key}", key, known))
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ValueError(f"{where}.{f.name} is missing: it has no default")
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        # A ValueError raised by the config's own __post_init__ is already in our words.
        own = first.get("ctx", {}).get("error")
        if first["type"] == "unexpected_keyword_argument":  # of a nested dataclass
            raise ValueError(f"{place}: unknown name {first['loc'][-1]!r}") from None
        # A TOML array becomes a tuple; whoever writes a recipe calls it a list.
        said = str(own) if own else f"{first['msg'].lower().replace('a valid tuple', 'a list')}, not {first['input']!r}"
        raise ValueError(f"{place}: {said}") from None


def unknown(place: str, word: str, known: list[str]) -> str:
    """The message for a word that is not among `known`, with the closest one suggested."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{place}: unknown name {word!r}{hint} (known: {', '.join(sorted(known))})"


def identity(cfg: Any) -> dict[str, Any]:
    """The fields of a config that decide the result, as JSON-ready values."""
    runtime_only = {f.name for f in dataclasses.fields(cfg) if f.metadata.get("runtime")}
    return {k: v for k, v in plain(cfg).items() if k not in runtime_only}


def plain(cfg: Any) -> dict[str, Any]:
    """All fields of a config as JSON-ready values."""
    return {f.name: _plain(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict | types.MappingProxyType):
        return {str(k): _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _adapter(cls: type[C]) -> TypeAdapter[C]:
    # A dataclass nested in a config refuses unknown keys too: pydantic reads this attribute from each of them.
    for nested in _dataclasses(cls):
        if "__pydantic_config__" not in nested.__dict__:
            setattr(nested, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010 (mypy knows no such attribute)
    return TypeAdapter(cls)


def _dataclasses(cls: type) -> list[type]:
    found = [cls]
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            found += _dataclasses(f.type)
    return found
