"""Other people's tools, each set in an environment of its own that is made on first use."""

import shutil
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
    "training": (
        *("torch==2.13.0", "numpy==2.4.6", "transformers==5.23.0", "accelerate==1.15.0"),
        *("lightning==2.6.6", "jsonargparse[signatures]==4.41.0", "psutil==7.2.2"),  # what litgpt needs
    ),
}
# Installed after the rest, without what they ask for: litgpt wants a huggingface-hub that transformers 5 does not.
ALONE = {"training": ("litgpt==0.5.13",)}
# What is no package: a repository and the commit that was measured.
SOURCES = {"nanochat": ("https://github.com/karpathy/nanochat", "0e4b3faded6209dd12a5dd3951cbdc3750e0f374")}


def python(name: str) -> Path:
    """The interpreter of the environment called `name`."""
    folder = CACHE / name
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *SETS[name]], check=True)
        if name in ALONE:
            subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", *ALONE[name]], check=True)
        (folder / "ready").touch()
    return folder / "bin/python"


def checkout(name: str) -> Path:
    """The source code called `name`, fetched once."""
    folder = CACHE / name
    if not (folder / "ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        address, commit = SOURCES[name]
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        subprocess.run(["git", "-C", folder, "fetch", "--quiet", "--depth", "1", address, commit], check=True)
        subprocess.run(["git", "-C", folder, "checkout", "--quiet", commit], check=True)
        (folder / "ready").touch()
    return folder
