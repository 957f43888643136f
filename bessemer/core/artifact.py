"""The artifact store: a stage's result is a folder that is whole or absent, and says how it was made.

Work goes to `NAME-key.part/`; `manifest.json` is written last, then one rename. A killed stage finds its own `.part` again
and goes on from what is in it. The key hashes {function, version, config, content of each input}, so equal work is never
done twice, and an upstream stage that comes out the same reruns nothing below it.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bessemer.core import config, launch, log
from bessemer.core.stage import Stage

MANIFEST = "manifest.json"
RUN = "run"  # a folder for what a run measured about itself: no digest covers it, and run/resume/ goes when the artifact is whole
BEGAN = f"{RUN}/began.json"  # what an artifact that is still made will be
Inputs = Mapping[str, Path | tuple[Path, ...] | None]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well: readers never see half a file.

    A full disk is an OSError that names the file, whichever library was writing and however it put it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
    except Exception as error:
        if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(errno.ENOSPC, "no space left on the disk", str(path)) from error
        raise
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, or None where `path` is a plain file or folder."""
    file = path / MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def name_of(path: Path) -> str:
    """What an input is called: its artifact's name, its dataset's on the hub, or its folder's or file's."""
    folder = path.resolve()
    if folder.parent.name == "snapshots":  # in the cache of the Hugging Face hub: datasets--ORG--NAME/snapshots/REVISION
        return folder.parent.parent.name.rpartition("--")[2]
    return (read_manifest(folder) or {}).get("name") or folder.name


def names_of(paths: Sequence[Path], what: str) -> list[str]:
    """What each of several inputs is called. ValueError where two of them (`what`, in the plural) are called alike."""
    names = [name_of(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two {what} are called alike ({', '.join(names)}): rename a folder")
    return names


def digest(path: Path) -> str:
    """What `path` contains, as a hash: an artifact's own record of it, or the bytes of a plain file or folder."""
    if not path.exists():
        raise FileNotFoundError(f"input {path} does not exist")
    if manifest := read_manifest(path):
        return manifest["digest"]
    # A file's ending counts: it says how the file is read.
    files = {"".join(path.suffixes): _sha256(path)} if path.is_file() else {n: _sha256(path / n) for n in _files(path, ("**/*",))}
    return _hash(files)


def key_of(stage: Stage, inputs: Inputs, cfg: Any) -> str:
    """The artifact key: equal for equal work, whatever the folder, the machine's core count or the day.

    Several inputs of one kind are told apart by what they are called (domains, models), so there the names count too.
    """
    label = lambda path: name_of(path) if path.is_dir() else "/".join(path.resolve().parts[-2:])  # noqa: E731 (gsm8k/test.jsonl)
    contents = {k: [[label(p), digest(p)] if isinstance(v, tuple) else digest(p) for p in _paths(v)] for k, v in inputs.items()}
    function = f"{stage.function.__module__}:{stage.function.__qualname__}"
    return _hash({"function": function, "version": stage.version, "config": config.identity(cfg), "inputs": contents})[:12]


def make(stage: Stage, inputs: Inputs, cfg: Any, folder: Path, key: str | None = None) -> Path:
    """Run `stage` unless `folder` already holds its result. Returns `folder`, complete with its manifest."""
    key = key or key_of(stage, inputs, cfg)
    if _finished(folder, key):
        return folder
    if launch.rank() > 0:
        part, marker = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".part") / RUN / "key"
        launch.follow(stage.function, inputs, part, cfg, lambda: marker.is_file() and marker.read_text() == key, lambda: _finished(folder, key))
        return folder
    with _locked(folder):
        if _finished(folder, key):  # by a process that held the lock until now
            return folder
        part = _part(folder, key)
        if read_manifest(part) is None:  # else it was killed between its last two steps
            began, begun = time.time(), _begun(stage, inputs, cfg, key, part)
            write_json(part / BEGAN, begun)
            try:
                numbers = launch.call(stage.function, inputs, part, cfg)
            except OSError as error:
                if error.errno == errno.ENOSPC and not error.filename:
                    raise OSError(errno.ENOSPC, "no space left on the disk", str(part)) from error
                raise
            write_json(part / MANIFEST, _manifest(stage, begun, part, numbers, began))
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
        shutil.rmtree(folder / RUN / "resume", ignore_errors=True)
    return folder


def ancestors(path: Path) -> list[dict[str, Any]]:
    """Manifests from `path` back to the first stage, each once, nearest first. Read from `path` alone."""
    manifest = read_manifest(path)
    if manifest is None:
        raise FileNotFoundError(f"{path} has no {MANIFEST}: not an artifact of Bessemer")
    return [manifest, *manifest["ancestors"]]


def _begun(stage: Stage, inputs: Inputs, cfg: Any, key: str, part: Path) -> dict[str, Any]:
    """What an artifact is made of: the half of its manifest that is known before the work."""
    parents: dict[str, Any] = {}
    older: dict[str, Any] = {}
    for name, value in inputs.items():
        parents[name] = [_parent(path) for path in _paths(value)]
        for path in _paths(value):
            if manifest := read_manifest(path):
                for ancestor in (manifest, *manifest["ancestors"]):
                    older.setdefault(ancestor["key"], {k: v for k, v in ancestor.items() if k not in ("ancestors", "files")})
    return {
        "name": part.name.removesuffix(".part").removesuffix(f"-{key}"),
        "stage": stage.name,
        "version": stage.version,
        "key": key,
        "config": config.plain(cfg),
        "inputs": parents,
        "made_with": {"bessemer": version("bessemer"), "python": platform.python_version(), "machine": platform.machine()},
        "ancestors": list(older.values()),
    }


def _manifest(stage: Stage, begun: dict[str, Any], part: Path, numbers: dict[str, float], began: float) -> dict[str, Any]:
    files = {name: {"sha256": _sha256(part / name), "bytes": (part / name).stat().st_size} for name in _files(part, ("**/*",))}
    covered = _files(part, stage.content)
    found = {
        "digest": _hash({name: files[name]["sha256"] for name in covered}),
        "numbers": numbers,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 2),
        "files": files,
    }
    order = ("name", "stage", "version", "key", "digest", "config", "inputs", "numbers", "began", "seconds", "made_with", "files", "ancestors")
    return {name: (begun | found)[name] for name in order}


def _parent(path: Path) -> dict[str, str | None]:
    manifest = read_manifest(path) or {}
    return {"path": str(path), "digest": digest(path), "key": manifest.get("key"), "name": manifest.get("name")}


def _finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the result with this key. FileExistsError where it holds anything else."""
    if manifest := read_manifest(folder):
        if manifest["key"] != key:
            raise FileExistsError(f"{folder} already holds another result (key {manifest['key']}, wanted {key}): name another folder or delete it")
        return True
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not an artifact of Bessemer: name another folder or delete it")
    return False


def _part(folder: Path, key: str) -> Path:
    """The folder work goes on in. One that another config left behind cannot be continued, so it goes; one that is not ours stays."""
    part = folder.with_name(folder.name + ".part")
    marker = part / RUN / "key"
    if marker.is_file() and marker.read_text() != key:
        shutil.rmtree(part)
    elif not marker.is_file() and any(path.is_file() and path.parent != part / RUN for path in part.rglob("*")):
        raise FileExistsError(f"{part} exists and is not unfinished work of Bessemer: name another folder or delete it")
    if marker.is_file():
        log.say(f"continuing {part.name}")
        return part
    (part / RUN).mkdir(parents=True, exist_ok=True)
    with atomic(marker) as temporary:
        temporary.write_text(key)
    return part


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time works towards an artifact. The kernel drops the lock when its holder dies, however it dies."""
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process is working on {folder}.part") from None
        yield
        path.unlink(missing_ok=True)  # not after a failure: a waiting process and a new one might then lock two files


def _paths(value: Path | tuple[Path, ...] | None) -> tuple[Path, ...]:
    return () if value is None else (value,) if isinstance(value, Path) else value


def _files(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    found = {p.relative_to(folder).as_posix() for pattern in patterns for p in folder.glob(pattern) if p.is_file()}
    return sorted(name for name in found if name != MANIFEST and not name.startswith(RUN + "/"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
