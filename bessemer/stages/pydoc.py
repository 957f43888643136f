"""Render the documentation of the Python that runs this as a static HTML site: a corpus every machine has.

Each top-level package is rendered by a child process of its own, in a bare environment and an empty folder, since documenting a
module means importing it. The pages are the same from run to run and hold no path or name of the machine.
"""

import json
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bessemer.core import log
from bessemer.core.artifact import RUN, write_json
from bessemer.core.config import Count, runtime
from bessemer.corpus.python_docs import pydoc_render

PAGES, PAGE_SECONDS = 750, 0.02  # of the standard library, on one core


@dataclass(frozen=True)
class PydocConfig:
    packages: tuple[str, ...] = ("stdlib",)  # top-level packages; "stdlib" for the standard library, "all" for everything installed
    skip: tuple[str, ...] = ()  # packages and modules to leave out
    timeout: float = 60.0  # seconds a module may take
    python: str = field(default_factory=platform.python_version)  # version to document: that of the Python that runs this
    versions: tuple[str, ...] = ()  # "numpy 2.4.1" and so on, of the distributions that the packages belong to: those installed
    workers: Count = runtime(2)  # packages rendered at a time

    def __post_init__(self) -> None:
        if self.python != platform.python_version():
            raise ValueError(f"this is Python {platform.python_version()}, not {self.python}: only the Python that runs this can be documented")
        installed = pydoc_render.versions(self.packages)
        if self.versions not in ((), installed):
            raise ValueError(f"versions: installed are {', '.join(installed) or 'none'}, not {', '.join(self.versions)}")
        object.__setattr__(self, "versions", installed)
        if not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {self.timeout}")


def pydoc(*, out: Path, cfg: PydocConfig) -> dict[str, float]:
    """Write out/site/ (one page per module, index.html, robots.txt). ValueError for a package that is not installed."""
    site, done = out / "site", out / RUN / "packages"
    site.mkdir(exist_ok=True)
    done.mkdir(parents=True, exist_ok=True)
    names = pydoc_render.package_names(cfg.packages, cfg.skip)
    todo = [name for name in names if not (done / f"{name}.json").is_file()]
    with log.progress("pydoc", len(names), len(names) - len(todo)) as bar, ThreadPoolExecutor(cfg.workers) as pool:

        def make(name: str) -> None:
            write_json(done / f"{name}.json", pydoc_render.render(name, site, cfg.timeout, cfg.skip))
            bar.advance(note=name)

        list(pool.map(make, todo))
    records = {name: json.loads((done / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    pages = sorted({page for record in records.values() for page in record["pages"]})
    failed = {page: reason for record in records.values() for page, reason in record["failed"].items()}
    if not pages:
        raise ValueError(f"no page came out of {', '.join(cfg.packages)}; first failure: {next(iter(failed.items()), 'none')}")
    write_json(out / RUN / "failed.json", failed)
    pydoc_render.write_index(site, pages)
    for stray in {file.name for file in site.iterdir()} - {f"{page}.html" for page in [*pages, "index"]} - {"robots.txt"}:
        (site / stray).unlink()  # of a module that a killed run had rendered and this one could not
    size = sum(file.stat().st_size for file in site.iterdir())
    return {"pages": len(pages), "failed": len(failed), "packages": len(names), "bytes": size}


def estimate(cfg: PydocConfig, _step: Any) -> dict[str, float]:
    return {"seconds": PAGES * PAGE_SECONDS / cfg.workers, "bytes": 13e6} if cfg.packages == ("stdlib",) else {}
