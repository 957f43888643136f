"""Other people's tools, each set in an environment of its own that is made on first use."""

import subprocess
import sys
from pathlib import Path

CACHE = Path.home() / ".cache/bessemer/benchmarks/peers"
# Pins that work together: spaCy is what datatrove splits English words with; lxml_html_clean is what both trafilaturas need but do not ask for.
SETS = {
    "datatrove": ("datatrove[io,processing]==0.10.1", "spacy==3.8.18", "lxml_html_clean", "orjson"),
    "old-extractors": ("trafilatura==1.11.0", "lxml_html_clean==0.4.6"),  # the version that datatrove 0.10 pins
    "extractors": (
        *("trafilatura==2.3.1", "lxml_html_clean==0.4.6", "readability-lxml==0.9", "justext==3.0.2"),
        *("resiliparse==2.0.1", "html-text==0.7.1"),
    ),
}


def python(name: str) -> Path:
    """The interpreter of the environment called `name`."""
    folder = CACHE / name
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *SETS[name]], check=True)
        (folder / "ready").touch()
    return folder / "bin/python"
