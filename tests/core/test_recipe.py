import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.core import artifact, config, recipe
from bessemer.core.config import Count
from bessemer.core.stage import Stage


@dataclass(frozen=True)
class Cfg:
    size: Count = 2


def write(*, out: Path, cfg: Cfg) -> dict[str, float]:
    (out / "text").write_text("x" * cfg.size)
    return {"size": cfg.size}


def join(first: Path, rest: tuple[Path, ...], extra: Path | None, *, out: Path, cfg: Cfg) -> dict[str, float]:
    paths = [first, *rest, *([extra] if extra else [])]
    (out / "text").write_text("+".join((path / "text").read_text() for path in paths))
    return {"parts": len(paths)}


def estimate(cfg: Cfg, step: recipe.Step) -> dict[str, float]:
    if cfg.size > 100:
        raise ValueError(f"size {cfg.size} is more than fits")
    return {"flops": 1e9, "bytes": cfg.size, "seconds": 1.0}


STAGES = {"write": Stage.of(write, estimate), "join": Stage.of(join)}


def find(name: str, place: str) -> Stage:
    if name not in STAGES:
        raise ValueError(config.unknown(place, name, list(STAGES)))
    return STAGES[name]


def load(tmp_path: Path, text: str) -> list[recipe.Step]:
    (tmp_path / "r.toml").write_text(text)
    return recipe.load(tmp_path / "r.toml", find)


GOOD = """
[a]
stage = "write"
[b]
stage = "write"
size = 3
[c]
stage = "join"
first = "a"
rest = ["b", "a"]
"""


def test_a_recipe_runs_in_order_and_a_second_run_finds_everything(tmp_path: Path):
    steps = load(tmp_path, GOOD)
    made = recipe.run(steps, tmp_path / "store", tmp_path / "store" / "r")
    assert (made["c"] / "text").read_text() == "xx+xxx+xx"
    assert (tmp_path / "store" / "r" / "c").resolve() == made["c"].resolve()
    before = {path: path.stat().st_mtime_ns for path in made.values()}
    assert recipe.run(steps, tmp_path / "store") == made
    assert before == {path: path.stat().st_mtime_ns for path in made.values()}


def test_a_changed_stage_reruns_what_is_below_it_and_no_more(tmp_path: Path):
    first = recipe.run(load(tmp_path, GOOD), tmp_path / "store")
    second = recipe.run(load(tmp_path, GOOD.replace("size = 3", "size = 4")), tmp_path / "store")
    assert first["a"] == second["a"] and first["b"] != second["b"] and first["c"] != second["c"]
    assert [m["name"] for m in artifact.ancestors(second["c"])] == ["c", "a", "b"]


def test_plan_tells_cached_from_will_run_and_does_nothing(tmp_path: Path):
    steps = load(tmp_path, GOOD)
    rows = recipe.plan(steps, tmp_path / "store")
    assert [row.folder for row in rows] == [None] * 3 and rows[0].key and rows[2].key is None
    assert rows[0].step.estimate["flops"] == 1e9
    assert not (tmp_path / "store").exists()
    recipe.run(steps, tmp_path / "store")
    assert all(row.folder for row in recipe.plan(steps, tmp_path / "store"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[a]\nstage = "wirte"', "a: unknown name 'wirte'; did you mean 'write'?"),
        ("[a]\nstage = 3", "a.stage must be a name, not 3"),
        ('[a]\nstage = "write"\nsiez = 1', "a.siez: unknown name 'siez'; did you mean 'size'?"),
        ('[a]\nstage = "write"\nsize = 0', "a.size: input should be greater than 0, not 0"),
        ('[a]\nstage = "write"\nsize = 101', "a: size 101 is more than fits"),
        ('[a]\nstage = "write"\n[c]\nstage = "join"\nfirst = "aa"\nrest = []', "'aa' is neither an earlier table (a) nor an existing file"),
        ('[c]\nstage = "join"\nfirst = ""\nrest = []', "c.first: '' is neither an earlier table (none) nor an existing file"),
        ('[c]\nstage = "join"\nrest = []', "c.first is missing: join needs it"),
        ('[a]\nstage = "write"\n[c]\nstage = "join"\nfirst = ["a"]\nrest = "a"', "c.first must be one name, not ['a']"),
        ('[a]\nstage = "write"\n[c]\nstage = "join"\nfirst = "a"\nrest = 3', "c.rest must be a list of names, not 3"),
        ("size = 3", "stands outside a table"),
        ("[a", "not valid TOML"),
        ("", "no tables"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(tmp_path: Path, text: str, said: str):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value) and "r.toml" in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nope.toml does not exist"):
        recipe.load(tmp_path / "nope.toml", find)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="hf://no-such/model-at-all: could not be downloaded"):
        recipe.fetch("hf://no-such/model-at-all")


@pytest.fixture
def hub(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without a network, whose Hugging Face cache holds org/name as a download leaves it."""
    repository = tmp_path / "cache" / "datasets--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    for folder in ("refs", "blobs", f"snapshots/{'a' * 40}/data/fr"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs" / "0").write_text("---\nlicense: mit\n---\n# A data set\n")
    pq.write_table(pa.table({"text": ["one", "two"], "id": ["1", "2"]}), repository / "blobs" / "1")
    pq.write_table(pa.table({"text": ["trois"]}), repository / "blobs" / "2")
    for number, name in enumerate(("README.md", "data/train-00000-of-00001.parquet", "data/fr/train-00000-of-00001.parquet")):
        (snapshot / name).symlink_to(repository / "blobs" / str(number))
    return os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("hf://datasets/org/name", ["trois", "one", "two"]),
        ("hf://datasets/org/name/data/fr", ["trois"]),
        (f"hf://datasets/org/name/data/fr@{'a' * 40}", ["trois"]),
    ],
)
def test_a_dataset_of_the_hub_is_read_from_the_cache(tmp_path: Path, hub: dict[str, str], source: str, texts: list[str]) -> None:
    """Its README is no document, also where it is in the cache."""
    command = [sys.executable, "-m", "bessemer", "read", "--source", source, "--workers", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["text"].to_pylist() == texts
    (parent,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]["source"]
    assert f"datasets--org--name/snapshots/{'a' * 40}" in parent["path"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf://datasets/org/name/none", "org/name has no folder none"),
        ("hf://datasets/org/other", "hf://datasets/org/other: could not be downloaded"),
        ("hf://datasets/org/name@other", "could not be downloaded"),
    ],
)
def test_a_dataset_that_is_not_in_the_cache_is_one_clear_error(tmp_path: Path, hub: dict[str, str], source: str, said: str) -> None:
    command = [sys.executable, "-m", "bessemer", "read", "--source", source, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=hub, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and said in done.stderr and "Traceback" not in done.stderr
