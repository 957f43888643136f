"""The README's commands are run, on a small recipe in place of the quickstart's."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bessemer.core import artifact, recipe
from bessemer.stages import find
from tests.stages.test_report import RECIPE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """Every `bessemer ...` line of the README's plain blocks, without its comment."""
    lines = [line.partition("#")[0].strip() for language, text in BLOCKS if not language for line in text.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if line.removeprefix(".venv/bin/").startswith("bessemer ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder whose quickstart is the small recipe."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "quickstart.toml").write_text(RECIPE)
    return folder


@pytest.mark.slow
def test_the_commands_run_in_their_order(folder: Path):
    lines = commands()
    assert {line.split()[1] for line in lines} >= {"plan", "run", "show", "seen", "chat", "doctor", "STAGE"}
    for line in sorted(lines, key=lambda line: line.split()[1] not in ("plan", "run")):
        if "DOCUMENT" in line:
            first = (folder / "artifacts/quickstart/dialogues/train.jsonl").read_text().partition("\n")[0]
            line = line.replace("DOCUMENT", json.loads(first)["id"])
        words = shlex.split(line.replace("STAGE", "crawl"))[1:]
        result = subprocess.run([sys.executable, "-m", "bessemer", *words], cwd=folder, input="Hello\n", capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        # A model of four training steps may answer with nothing but newlines.
        assert result.stdout if words[0] == "chat" else result.stdout.strip(), line


@pytest.mark.slow
def test_the_python_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    example = next(text for language, text in BLOCKS if language == "python")
    if not (folder / "artifacts").exists():
        subprocess.run([sys.executable, "-m", "bessemer", "run", "recipes/quickstart.toml"], cwd=folder, check=True, capture_output=True)
    monkeypatch.chdir(folder)
    exec(example, {"__name__": "__main__"})
    manifest = artifact.read_manifest(folder / "filtered")
    assert manifest and manifest["numbers"]["documents"] > 0


def test_the_recipe_example_is_one(tmp_path: Path):
    example = next(text for language, text in BLOCKS if language == "toml")
    (tmp_path / "r.toml").write_text(example)
    assert [step.name for step in recipe.load(tmp_path / "r.toml", find)] == ["crawl", "extract", "filter", "dedup"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_is_sound(path: Path):
    assert recipe.load(path, find)


@pytest.mark.parametrize("target", ["quickstart", "test", "test-slow", "lint", "bench"])
def test_make_knows_its_targets(target: str):
    assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True).returncode == 0


def test_every_link_and_folder_of_the_readme_exists():
    for path in re.findall(r"\]\((docs/[^)]+)\)|`(bessemer/\w+)`", README):
        assert (ROOT / (path[0] or path[1])).exists(), path
