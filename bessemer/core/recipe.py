"""A recipe: a TOML file with one table per stage, in run order. Load it, plan it, run it.

    [docs]                      # the artifact's name
    stage = "extract"           # left out where the table is called like the stage
    crawl = "crawl"             # an input: an earlier table, a path, or hf://org/model
    min_words = 20              # everything else is the stage's config

No includes, no interpolation, no graph language: a sweep is a Python loop over `load` and `run`.
"""

import dataclasses
import functools
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bessemer.core import artifact, config, launch, log
from bessemer.core.stage import Stage


@dataclass(frozen=True)
class Step:
    """One table of a recipe, checked: what runs, on what, with which config."""

    name: str
    stage: Stage
    cfg: Any
    inputs: Mapping[str, tuple["Step | Path | str", ...]]  # a Step of this recipe, a path, or an hf:// address
    estimate: Mapping[str, float] = field(default_factory=dict)

    def upstream(self, name: str) -> "Step | None":
        """The step that makes input `name`, where it is one of the recipe's own."""
        for source in self.inputs.get(name, ()):
            if isinstance(source, Step):
                return source
        return None


def load(path: Path, find: Callable[[str, str], Stage]) -> list[Step]:
    """Read and check a whole recipe before any work. `find(name, place)` gives a stage, or ValueError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"recipe {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    steps: dict[str, Step] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name} = {table!r} stands outside a table; a recipe holds one [table] per stage")
        steps[name] = _step(f"{path}: {name}", name, dict(table), steps, find)
    if not steps:
        raise ValueError(f"{path}: no tables; a recipe holds one [table] per stage")
    return list(steps.values())


def _step(place: str, name: str, table: dict[str, Any], earlier: Mapping[str, Step], find: Callable[[str, str], Stage]) -> Step:
    called = table.pop("stage", name)
    if not isinstance(called, str):
        raise ValueError(f"{place}.stage must be a name, not {called!r}")
    stage = find(called, place)
    inputs = {key: _sources(place, key, stage, table.pop(key, None), earlier) for key in stage.inputs}
    allowed = [*stage.inputs, "stage"]
    for key in table:  # a misspelt input should not be answered with config fields alone
        fields = [f.name for f in dataclasses.fields(stage.config)]
        if key not in fields:
            raise ValueError(config.unknown(f"{place}.{key}", key, allowed + fields))
    step = Step(name, stage, config.parse(stage.config, table, place), inputs)
    if stage.estimate is None:
        return step
    try:
        return Step(name, stage, step.cfg, inputs, stage.estimate(step.cfg, step))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _sources(place: str, key: str, stage: Stage, value: Any, earlier: Mapping[str, Step]) -> tuple[Step | Path | str, ...]:
    kind = stage.inputs[key]
    if value is None and kind != "many" and key in earlier:
        value = key  # an input called like an earlier table needs no line
    if value is None:
        if kind == "one":
            raise ValueError(f"{place}.{key} is missing: {stage.name} needs it (earlier tables: {', '.join(earlier) or 'none'})")
        return ()
    words = value if isinstance(value, list) else [value]
    if (kind != "many" and isinstance(value, list)) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{place}.{key} must be {'a list of names' if kind == 'many' else 'one name'}, not {value!r}")
    return tuple(_source(f"{place}.{key}", word, earlier) for word in words)


def _source(place: str, word: str, earlier: Mapping[str, Step]) -> Step | Path | str:
    if word in earlier:
        return earlier[word]
    if word.startswith("hf://"):
        return word
    if word and Path(word).exists():
        return Path(word)
    raise ValueError(f"{place}: {word!r} is neither an earlier table ({', '.join(earlier) or 'none'}) nor an existing file or folder")


@dataclass(frozen=True)
class Planned:
    """A row of the plan. The key is known as soon as every input exists."""

    step: Step
    key: str | None
    folder: Path | None  # of the finished artifact, None where it still has to be made


def plan(steps: list[Step], store: Path) -> list[Planned]:
    """What each step would do, without doing it."""
    done: dict[str, Planned] = {}
    for step in steps:
        inputs = {name: _existing(step, name, done) for name in step.inputs}
        if any(found is None for found in inputs.values()):
            done[step.name] = Planned(step, None, None)
            continue
        key = artifact.key_of(step.stage, _shape(step, {k: v for k, v in inputs.items() if v is not None}), step.cfg)
        folder = store / f"{step.name}-{key}"
        done[step.name] = Planned(step, key, folder if artifact.read_manifest(folder) else None)
    return list(done.values())


def _existing(step: Step, name: str, done: Mapping[str, Planned]) -> tuple[Path, ...] | None:
    paths = []
    for source in step.inputs[name]:
        path = done[source.name].folder if isinstance(source, Step) else source if isinstance(source, Path) else None
        if path is None:
            return None
        paths.append(path)
    return tuple(paths)


def _shape(step: Step, inputs: Mapping[str, tuple[Path, ...]]) -> dict[str, Path | tuple[Path, ...] | None]:
    """Tuples of paths as the stage's signature wants them."""
    kinds = step.stage.inputs
    return {k: v if kinds[k] == "many" else v[0] if v else None for k, v in inputs.items()}


def run(steps: list[Step], store: Path, links: Path | None = None) -> dict[str, Path]:
    """Run a recipe's steps in order; a step whose artifact exists is skipped. Returns the folder of each.

    `links` is a folder that gets one link per step, so that a person finds `assistant` without knowing its key.
    """
    made: dict[str, Path] = {}
    store.mkdir(parents=True, exist_ok=True)
    # Downloads first: a wrong name should not wait for the stages before it.
    addresses = (source for step in steps for sources in step.inputs.values() for source in sources if isinstance(source, str))
    fetched = {address: fetch(address) for address in dict.fromkeys(addresses)}
    for number, step in enumerate(steps, 1):
        inputs = _shape(step, {name: tuple(_path(source, made, fetched) for source in sources) for name, sources in step.inputs.items()})
        key = artifact.key_of(step.stage, inputs, step.cfg)
        folder = store / f"{step.name}-{key}"
        cached = artifact.read_manifest(folder) is not None
        log.say(f"[{number}/{len(steps)}] {step.name}: {'cached' if cached else step.stage.name} {folder}")
        try:
            made[step.name] = artifact.make(step.stage, inputs, step.cfg, folder, key)
        except ValueError as error:
            raise ValueError(f"{step.name}: {error}") from error
        manifest = artifact.read_manifest(folder)
        assert manifest
        if not cached:
            numbers = ", ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v:,}" for k, v in manifest["numbers"].items())
            log.say(f"      {manifest['seconds']:.0f}s: {numbers}")
        if links and launch.rank() == 0:
            _link(links / step.name, folder)
    return made


def _path(source: Step | Path | str, made: Mapping[str, Path], fetched: Mapping[str, Path]) -> Path:
    if isinstance(source, Step):
        return made[source.name]
    return source if isinstance(source, Path) else fetched[source]


# Of a model many repositories hold the same weights again, for other libraries.
OTHER_WEIGHTS = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "original/*", "consolidated*"]


def fetch(address: str) -> Path:
    """Download `hf://org/name[@revision]`, or `hf://datasets/org/name[/folder][@revision]`, into the Hugging Face cache.

    Returns the folder. Of a dataset only its parquet files are fetched, where it has any: its README is no document.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = address.removeprefix("hf://").partition("@")
    is_dataset = name.startswith("datasets/")
    organisation, _, rest = name.removeprefix("datasets/").partition("/")
    name, _, folder = rest.partition("/")
    patterns = [f"{folder}/*" if folder else "*.parquet"] if is_dataset else None
    others = None if is_dataset else OTHER_WEIGHTS
    kind = "dataset" if is_dataset else "model"
    get = functools.partial(snapshot_download, f"{organisation}/{name}", repo_type=kind, revision=revision or None, ignore_patterns=others)
    try:
        found = Path(get(allow_patterns=patterns))
        if is_dataset and not folder and not any(found.rglob("*.parquet")):
            found = Path(get())
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConnectionError(f"{address}: could not be downloaded: {str(error).splitlines()[0]}") from None
    if folder and not (found / folder).is_dir():
        raise FileNotFoundError(f"{address}: {organisation}/{name} has no folder {folder}")
    return found / folder


def _link(link: Path, folder: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(link.name + ".tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(folder, link.parent))
    temporary.replace(link)
