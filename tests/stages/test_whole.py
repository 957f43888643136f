"""The whole path on a small scale: killed again and again it comes out as if it never was, key for key."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bessemer.core import artifact
from tests.stages.test_report import RECIPE


def command(recipe: Path, store: Path) -> list[str]:
    return [sys.executable, "-m", "bessemer", "run", str(recipe), "--store", str(store)]


def keys(store: Path) -> set[str]:
    return {path.name for path in store.iterdir() if (path / artifact.MANIFEST).is_file()}


@pytest.mark.slow
def test_a_recipe_killed_at_any_moment_ends_with_the_same_keys(tmp_path: Path):
    """Kills after 1, 2, 3 ... seconds, over and over, so that every stage is hit somewhere; then the keys, which hash all contents."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    began = time.monotonic()
    subprocess.run(command(recipe, tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - began

    kills, patience = 0, 1.0
    while True:
        process = subprocess.Popen(command(recipe, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert process.wait(timeout=patience) == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            patience += 0.75
            assert patience < 3 * whole + 30, "the recipe never ends"
    assert kills >= 3
    steps = RECIPE.count("\n[") + RECIPE.startswith("[")
    assert keys(tmp_path / "killed") == keys(tmp_path / "whole") and len(keys(tmp_path / "whole")) == steps
    assert not list((tmp_path / "killed").glob("*.part"))

    again = subprocess.run(command(recipe, tmp_path / "killed"), check=True, capture_output=True, text=True)
    assert again.stderr.count(": cached ") == steps
