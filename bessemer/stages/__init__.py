"""One file per thing you can do. The file, its function and the command are called the same.

A stage module may also define `estimate(cfg, step) -> {flops, bytes, seconds}`: what the work will cost, from configs
alone. It raises ValueError where configs do not fit together, so a recipe fails before any work.
"""

import ast
import importlib
import pkgutil
from pathlib import Path

from bessemer.core import config
from bessemer.core.stage import Stage

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, place: str = "stage") -> Stage:
    """The stage called `name`. Only that module is imported: crawling does not load torch."""
    if name not in NAMES:
        raise ValueError(config.unknown(place, name, NAMES))
    module = importlib.import_module(f"{__name__}.{name}")
    return Stage.of(getattr(module, name), getattr(module, "estimate", None))


def summaries() -> dict[str, str]:
    """The first line of each stage module, read without importing it."""
    folder = Path(__path__[0])
    found = {}
    for name in NAMES:
        docstring = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
        found[name] = docstring.partition("\n")[0]
    return found
