"""Rendering whole packages, each in a process of its own that may hang, crash or end: see pydoc_site for what it does."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from bessemer.corpus.python_docs import pydoc_site


def package_names(wanted: Iterable[str], skip: Iterable[str]) -> list[str]:
    """The top-level packages to render, sorted. Private ones and those meant for another operating system are left out."""
    names: set[str] = set()
    for word in wanted:
        if word in ("stdlib", "all"):
            names |= {name for name in sys.stdlib_module_names if name not in pydoc_site.SKIPPED} | {"pydoc_data"}
        if word == "all":
            names |= {name for name in metadata.packages_distributions() if name.isidentifier() and name not in pydoc_site.SKIPPED}
        if word not in ("stdlib", "all"):
            if not word.isidentifier() or util.find_spec(word) is None:
                raise ValueError(f"packages: {word!r} is not a top-level package of this Python ({sys.prefix})")
            names.add(word)
    return sorted(n for n in names if not n.startswith("_") and n not in skip and (n in sys.builtin_module_names or _found(n)))


def versions(wanted: Iterable[str]) -> tuple[str, ...]:
    """The installed distributions that the wanted packages belong to, with their versions; none for the standard library."""
    if not (words := {*wanted} - {"stdlib"}):
        return ()
    homes = metadata.packages_distributions()
    names = {home for package in (homes if "all" in words else words) for home in homes.get(package, ())}
    return tuple(f"{name} {metadata.version(name)}" for name in sorted(names))


def _found(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module without a spec, such as a stub already imported
        return False


def render(package: str, site: Path, seconds: float, skip: Iterable[str]) -> dict[str, Any]:
    """Render one package; a module that hangs or kills its process is noted, and the others are rendered without it."""
    failed: dict[str, str] = {}
    while True:
        pages, ended, current = _child(package, site, seconds, [*skip, *failed])
        failed |= {row["failed"]: row["reason"] for row in pages if "failed" in row}
        if ended == 0:
            return {"pages": [row["page"] for row in pages if "page" in row], "failed": failed}
        silent = f"no answer for {2 * seconds + 1:g} s" if ended == -signal.SIGKILL else f"ended by signal {-ended}"
        failed[current] = silent if ended < 0 else f"ended the process with status {ended}"
        if current == package:
            return {"pages": [], "failed": failed}


def _child(package: str, site: Path, seconds: float, skip: list[str]) -> tuple[list[dict[str, Any]], int, str]:
    """Run the renderer once: what it reported, its exit status (negative: killed) and the module it was at."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {
            "PATH": os.defpath, "LANG": "C.UTF-8", "HOME": empty, "TMPDIR": empty, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
            "BROWSER": "true", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "SETUPTOOLS_USE_DISTUTILS": "stdlib",
        }  # fmt: skip
        # Where this Python finds its libraries and modules; pages never show either.
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        command = [sys.executable, "-P", "-s", pydoc_site.__file__, str(site.resolve()), str(seconds), package, *skip]
        process = subprocess.Popen(command, cwd=empty, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        assert process.stdout
        rows, current = [], package
        # The child's own alarm cannot stop C code, so one that says nothing for twice the time is killed.
        watch = threading.Timer(2 * seconds + 1, process.kill)
        watch.start()
        for line in process.stdout:
            watch.cancel()
            watch = threading.Timer(2 * seconds + 1, process.kill)
            watch.start()
            rows.append(json.loads(line))
            current = rows[-1].get("begin", current)
        watch.cancel()
        return rows, process.wait(), current


def write_index(site: Path, pages: list[str]) -> None:
    """The start page, which links every other, and a robots.txt that welcomes crawlers."""
    rows = "\n".join(f'<li><a href="{page}.html">{page}</a></li>' for page in pages)
    index = pydoc_site.page("Python documentation", "Python documentation", [f"<ul>\n{rows}\n</ul>"], [])
    (site / "index.html").write_text(index, encoding="utf-8")
    (site / "robots.txt").write_text("User-agent: *\nDisallow:\n", encoding="utf-8")
