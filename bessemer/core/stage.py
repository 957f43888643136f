"""A stage: a plain function `f(*inputs: Path, out: Path, cfg: Config) -> dict of numbers`, described by its own signature.

What a stage declares sits on its config class, as class variables:
`version` (raise it when the same config now gives another result) and
`content` (the files that are the result, where the rest is only bookkeeping: a WARC's dates, say).
"""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["one", "optional", "many"]
KINDS: dict[Any, Kind] = {Path: "one", Path | None: "optional", tuple[Path, ...]: "many"}


@dataclass(frozen=True)
class Stage:
    """What the recipe, the command line and the artifact store know about a stage function."""

    name: str
    function: Callable[..., dict[str, float]]
    config: type
    inputs: dict[str, Kind]
    estimate: Callable[..., dict[str, float]] | None  # (cfg, step) -> flops, bytes, seconds; before any work

    @property
    def version(self) -> int:
        return getattr(self.config, "version", 1)

    @property
    def content(self) -> tuple[str, ...]:
        return getattr(self.config, "content", ("**/*",))

    @staticmethod
    def of(function: Callable[..., dict[str, float]], estimate: Callable[..., dict[str, float]] | None = None) -> "Stage":
        hints = typing.get_type_hints(function)
        inputs: dict[str, Kind] = {}
        for name in inspect.signature(function).parameters:
            if name not in ("out", "cfg"):
                assert hints[name] in KINDS, f"{function.__name__}: input {name} must be a Path, Path | None or tuple[Path, ...]"
                inputs[name] = KINDS[hints[name]]
        assert "out" in hints and "cfg" in hints, f"{function.__name__} must take out and cfg"
        return Stage(function.__name__, function, hints["cfg"], inputs, estimate)
