"""The command line: `bessemer run | plan | show | chat`, and every stage as `bessemer STAGE --flags`."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from bessemer.core import artifact, config, launch, log, workers
from bessemer.core import recipe as recipes
from bessemer.core.stage import Stage
from bessemer.decode.chat import ChatConfig
from bessemer.stages import NAMES, find

# Large activations are freed and allocated anew at each step; glibc would give them back to the kernel and fault every page
# in again. These must be set before Python starts. Worth 10 to 20 % of training speed on CPU.
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 35),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 35),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "THP_MEM_ALLOC_ENABLE": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # the same for a GPU's memory
}


def main() -> None:
    if sys.platform == "linux" and not any(name in os.environ for name in MEMORY):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **MEMORY})
    if launch.rank() > 0:  # one of several processes talks
        log.console.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    words = sys.argv[1:]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        dispatch(words)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command continues from here")
    except BrokenPipeError:  # `bessemer show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if debug:
            raise
        sys.exit(f"error: {one_line(error)}")


def one_line(error: Exception) -> str:
    """An exception in the user's words. Our own messages stand alone; a stranger's keeps its type so it can be looked up."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror or text}: {error.filename}" if error.filename else text
    if isinstance(error, ValueError | OSError | RuntimeError):
        return text
    if isinstance(error, KeyError) and " " in text:  # a sentence of ours; str() of a KeyError puts it in quotes
        return str(error.args[0])
    return f"{type(error).__name__}: {text} (--debug shows where)"


def dispatch(words: list[str]) -> None:
    """Run the command that `words` name."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    name, rest = words[0].replace("-", "_"), words[1:]
    if name in COMMANDS:
        parse(COMMANDS[name], rest, name)
    elif name in NAMES:
        run_stage(find(name), rest)
    else:
        raise ValueError(config.unknown("command", name, [*COMMANDS, *NAMES]))


def parse(function: Callable[..., Any], words: list[str], name: str) -> Any:
    """Call `function` with what the flags say; its signature is the help. Each field of `cfg` is a flag; those of a config inside it: --mask.rate."""
    import tyro

    return tyro.cli(function, args=words, prog=f"bessemer {name}")


def overview() -> str:
    from bessemer.stages import summaries

    commands = {name: (function.__doc__ or "").partition("\n")[0] for name, function in COMMANDS.items()}
    lines = ["usage: bessemer COMMAND [--help] [--debug]", "", "commands"]
    lines += [f"  {name:<17} {text}" for name, text in commands.items()]
    lines += ["", "stages: each runs alone, or as a table of a recipe"]
    lines += [f"  {name.replace('_', '-'):<17} {text}" for name, text in summaries().items()]
    return "\n".join(lines)


def run_stage(stage: Stage, words: list[str]) -> None:
    """`bessemer STAGE --flags`: the stage's inputs, its config, and where the artifact goes."""
    # Text, not Path, which would make hf:/ of hf://
    kinds = {"one": (str, dataclasses.MISSING), "optional": (str | None, None), "many": (tuple[str, ...], dataclasses.MISSING)}
    fields: list[Any] = []
    for name, kind in stage.inputs.items():
        fields.append((name, kinds[kind][0], dataclasses.field(default=kinds[kind][1])))
    fields.append(("cfg", Annotated[stage.config, arg(name="")]))
    fields.append(("out", Path | None, dataclasses.field(default=None)))
    fields.append(("store", Path, dataclasses.field(default=Path("artifacts"))))
    fields.append(("cluster", str, dataclasses.field(default="")))
    given: Any = parse(dataclasses.make_dataclass("Arguments", fields, kw_only=True), words, stage.name)

    def found(word: Any) -> Any:
        if word is None or isinstance(word, tuple):
            return word and tuple(map(found, word))
        return recipes.fetch(word) if word.startswith("hf://") else Path(word)

    on(given.cluster)
    inputs = {name: found(getattr(given, name)) for name in stage.inputs}
    cfg: Any = config.parse(stage.config, config.plain(given.cfg), stage.name)  # ranges are checked here, as in a recipe
    key = artifact.key_of(stage, inputs, cfg)
    folder = artifact.make(stage, inputs, cfg, given.out or given.store / f"{stage.name}-{key}", key)
    manifest = artifact.read_manifest(folder)
    assert manifest
    print(json.dumps(manifest["numbers"], indent=1))
    print(folder)


def on(cluster: str) -> None:
    """Have the corpus stages work on the Ray cluster at this address ("": on this machine, or as the environment says)."""
    if cluster:
        os.environ[workers.CLUSTER] = cluster


def run(recipe: Positional[Path], /, store: Path = Path("artifacts"), cluster: str = "") -> None:
    """Run a recipe. What is already made is kept; a killed run continues. CLUSTER: address of a Ray cluster for the corpus stages."""
    on(cluster)
    made = recipes.run(recipes.load(recipe, find), store, links=store / recipe.stem)
    for name, folder in made.items():
        print(f"{store / recipe.stem / name} -> {folder.name}")


def plan(recipe: Positional[Path], /, store: Path = Path("artifacts")) -> None:
    """Check a recipe and show what it would do: keys, cached or not, FLOPs, bytes, hours."""
    table = Table("stage", "is", "key", "state", "FLOPs", "bytes", "hours", box=None, header_style="bold")
    for row in recipes.plan(recipes.load(recipe, find), store):
        cost = row.step.estimate
        state = "cached" if row.folder else "will run"
        numbers = [f"{cost[k]:.3g}" if k in cost else "-" for k in ("flops", "bytes")]
        hours = f"{cost['seconds'] / 3600:.3f}" if "seconds" in cost else "-"
        table.add_row(row.step.name, row.step.stage.name, row.key or "(after its inputs)", state, *numbers, hours)
    Console().print(table)


def show(path: Positional[Path], /, document: str = "") -> None:
    """How an artifact was made, back to the crawl; of a corpus what was kept and why not, of one DOCUMENT (id or URL) its way."""
    manifests = artifact.ancestors(path)
    if document:
        show_document(path, document)
        return
    for manifest in manifests:
        print(f"{manifest['name']}-{manifest['key']}: {manifest['stage']} v{manifest['version']}, {manifest['began']}, {manifest['seconds']}s")
        for name, parents in manifest["inputs"].items():
            for parent in parents:
                made = f"{parent['name']}-{parent['key']}" if parent["key"] else f"{parent['path']} (sha256 {parent['digest'][:12]})"
                print(f"  {name:<14} <- {made}")
        print("  config        ", ", ".join(f"{k}={v}" for k, v in manifest["config"].items()))
        print("  numbers       ", ", ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in manifest["numbers"].items()))
    if (path / "content.json").is_file():
        show_funnel(path, manifests)


def show_funnel(path: Path, manifests: list[dict[str, Any]]) -> None:
    """The table of documents from the first stage to the artifact at `path`, and a sample of what it refused."""
    from bessemer.corpus import lineage

    table = Table("stage", "documents", "MB of text", "refused", "of these", box=None, header_style="bold", title="funnel", title_justify="left")
    for level in lineage.funnel(manifests):
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in level.reasons.items())
        table.add_row(level.name, f"{level.documents:,}", f"{level.text_bytes / 1e6:,.2f}", f"{level.rejected:,}", reasons)
    Console().print("", table)
    for row in lineage.samples(path):
        place, text = row.get("url") or row.get("source") or row["id"], " ".join((row.get("text") or "").split())
        print(f"  {row['reason']}: {place} ({row.get('detail') or ''}) {text[:100]!r}")


def show_document(path: Path, document: str) -> None:
    """What each stage up to the artifact at `path` found out about a document."""
    from bessemer.corpus import lineage

    way = lineage.trace(path, document)
    last = way[-1][1]
    print(f"{last['id']}  {last.get('url') or ''}  {last.get('source') or ''}")
    for name, said in lineage.findings(way):
        print(f"  {name:<14} {said}")


def chat(checkpoint: Positional[Path], /, cfg: Annotated[ChatConfig, arg(name="")]) -> None:
    """Talk to a checkpoint in the terminal, or through a pipe."""
    from bessemer.decode import chat as terminal

    terminal.chat(checkpoint, config.parse(ChatConfig, config.plain(cfg), "chat"))


def seen(document: Positional[str] = "", /, checkpoint: Path | None = None, step: int = -1, store: Path = Path("artifacts")) -> None:
    """Which steps of a training saw a DOCUMENT (its id, or how that begins), or with --step N what that step read.

    Of CHECKPOINT; without one, of the newest training in the store. Looked up, not logged: exact on any number of processes.
    """
    from bessemer.data import seen as lookup

    lookup.seen(checkpoint or lookup.newest(store), document, step)


def doctor(drill: bool = False, kills: int = 12) -> None:
    """What this machine can do and what slows it down; DRILL: kill small trainings KILLS times and prove that they go on bit for bit."""
    from bessemer.train.resume.drill import doctor

    sys.exit(0 if doctor(drill, kills) else 1)


COMMANDS: dict[str, Callable[..., Any]] = {"run": run, "plan": plan, "show": show, "seen": seen, "chat": chat, "doctor": doctor}

if __name__ == "__main__":
    main()
