"""Render the documentation of the Python that runs this as a static HTML site: a corpus every machine has.

Each top-level package is rendered by a child process of its own, in a bare environment and an empty folder, since documenting a
module means importing it. The pages are the same from run to run and hold no path or name of the machine.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

from bessemer.core import log
from bessemer.core.artifact import RUN, write_json
from bessemer.core.config import Count, runtime
from bessemer.corpus import pydoc_site

PAGES, PAGE_SECONDS = 750, 0.02  # of the standard library, on one core


@dataclass(frozen=True)
class PydocConfig:
    packages: tuple[str, ...] = ("stdlib",)  # top-level packages; "stdlib" for the standard library, "all" for everything installed
    skip: tuple[str, ...] = ()  # packages and modules to leave out
    timeout: float = 60.0  # seconds a module may take
    python: str = field(default_factory=platform.python_version)  # version to document: that of the Python that runs this
    workers: Count = runtime(2)  # packages rendered at a time

    def __post_init__(self) -> None:
        if self.python != platform.python_version():
            raise ValueError(f"this is Python {platform.python_version()}, not {self.python}: only the Python that runs this can be documented")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {self.timeout}")


def pydoc(*, out: Path, cfg: PydocConfig) -> dict[str, float]:
    """Write out/site/ (one page per module, index.html, robots.txt). ValueError for a package that is not installed."""
    site, done = out / "site", out / RUN / "packages"
    site.mkdir(exist_ok=True)
    done.mkdir(parents=True, exist_ok=True)
    names = package_names(cfg)
    todo = [name for name in names if not (done / f"{name}.json").is_file()]
    with log.progress("pydoc", len(names), len(names) - len(todo)) as bar, ThreadPoolExecutor(cfg.workers) as pool:

        def make(name: str) -> None:
            write_json(done / f"{name}.json", render(name, site, cfg))
            bar.advance(note=name)

        list(pool.map(make, todo))
    records = {name: json.loads((done / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    pages = sorted({page for record in records.values() for page in record["pages"]})
    failed = {page: reason for record in records.values() for page, reason in record["failed"].items()}
    if not pages:
        raise ValueError(f"no page came out of {', '.join(cfg.packages)}; first failure: {next(iter(failed.items()), 'none')}")
    write_json(out / RUN / "failed.json", failed)
    write_index(site, pages)
    for stray in {file.name for file in site.iterdir()} - {f"{page}.html" for page in [*pages, "index"]} - {"robots.txt"}:
        (site / stray).unlink()  # of a module that a killed run had rendered and this one could not
    size = sum(file.stat().st_size for file in site.iterdir())
    return {"pages": len(pages), "failed": len(failed), "packages": len(names), "bytes": size}


def estimate(cfg: PydocConfig, _step: Any) -> dict[str, float]:
    return {"seconds": PAGES * PAGE_SECONDS / cfg.workers, "bytes": 13e6} if cfg.packages == ("stdlib",) else {}


def package_names(cfg: PydocConfig) -> list[str]:
    """The top-level packages to render, sorted. Private ones and those meant for another operating system are left out."""
    names: set[str] = set()
    for word in cfg.packages:
        if word in ("stdlib", "all"):
            names |= {name for name in sys.stdlib_module_names if name not in pydoc_site.SKIPPED} | {"pydoc_data"}
        if word == "all":
            names |= {name for name in metadata.packages_distributions() if name.isidentifier() and name not in pydoc_site.SKIPPED}
        if word not in ("stdlib", "all"):
            if not word.isidentifier() or util.find_spec(word) is None:
                raise ValueError(f"packages: {word!r} is not a top-level package of this Python ({sys.prefix})")
            names.add(word)
    return sorted(n for n in names if not n.startswith("_") and n not in cfg.skip and (n in sys.builtin_module_names or found(n)))


def found(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module without a spec, such as a stub already imported
        return False


def render(package: str, site: Path, cfg: PydocConfig) -> dict[str, Any]:
    """Render one package; a module that hangs or kills its process is noted, and the others are rendered without it."""
    failed: dict[str, str] = {}
    while True:
        pages, ended, current = child(package, site, cfg, [*cfg.skip, *failed])
        failed |= {row["failed"]: row["reason"] for row in pages if "failed" in row}
        if ended == 0:
            return {"pages": [row["page"] for row in pages if "page" in row], "failed": failed}
        silent = f"no answer for {2 * cfg.timeout + 1:g} s" if ended == -signal.SIGKILL else f"ended by signal {-ended}"
        failed[current] = silent if ended < 0 else f"ended the process with status {ended}"
        if current == package:
            return {"pages": [], "failed": failed}


def child(package: str, site: Path, cfg: PydocConfig, skip: list[str]) -> tuple[list[dict[str, Any]], int, str]:
    """Run the renderer once: what it reported, its exit status (negative: killed) and the module it was at."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {
            "PATH": os.defpath, "LANG": "C.UTF-8", "HOME": empty, "TMPDIR": empty, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
            "BROWSER": "true", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "SETUPTOOLS_USE_DISTUTILS": "stdlib",
        }  # fmt: skip
        # Where this Python finds its libraries and modules; pages never show either.
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        command = [sys.executable, "-P", "-s", pydoc_site.__file__, str(site.resolve()), str(cfg.timeout), package, *skip]
        process = subprocess.Popen(command, cwd=empty, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        assert process.stdout
        rows, current = [], package
        # The child's own alarm cannot stop C code, so one that says nothing for twice the time is killed.
        watch = threading.Timer(2 * cfg.timeout + 1, process.kill)
        watch.start()
        for line in process.stdout:
            watch.cancel()
            watch = threading.Timer(2 * cfg.timeout + 1, process.kill)
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
