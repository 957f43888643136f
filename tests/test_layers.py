"""The import layers of the design, read from the source; and the size alarms, printed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bessemer"
LAYERS = [
    {"core"},
    {"corpus", "tokenizer", "model"},
    {"data", "scale"},
    {"train"},
    {"decode"},
    {"eval"},
    {"synth"},
    {"serve"},
    {"stages"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {"train": {"tokenizer", "corpus", "decode"}, "decode": {"train"}}
FILES = sorted(PACKAGE.rglob("*.py"))


def area(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path) -> list[str]:
    """Top-level modules that a file imports, as `torch` or `bessemer.AREA`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "bessemer" else [node.module or ""]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_leftwards(path: Path):
    here = area(path)
    if here == "__init__":
        return
    for name in imported(path):
        if not name.startswith("bessemer"):
            assert not (here in ("corpus", "tokenizer") and name.split(".")[0] == "torch"), f"{path} imports torch"
            continue
        if name == "bessemer":
            continue
        there = name.split(".")[1]
        assert there == here or LEVEL[there] < LEVEL[here], f"{path} imports {name}"
        assert there not in FORBIDDEN.get(here, ()), f"{path} imports {name}"
        # A stage may not lean on another stage, only on the areas.
        assert not (here == "stages" and there == "stages" and path.stem != "__init__"), f"{path} imports {name}"


def test_every_area_has_a_layer():
    assert {area(path) for path in FILES} - {"__init__"} <= LEVEL.keys()


def test_training_and_decoding_load_none_of_the_data_engine():
    """A bare machine with torch, numpy, safetensors and tokenizers can train and decode."""
    code = "import bessemer.train.loop, bessemer.decode.generate, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"scrapy", "pyarrow", "fastwarc", "resiliparse", "rensa", "warcio", "matplotlib", "transformers"} & set(loaded)


def test_corpus_stages_do_not_load_torch():
    names = (
        "pydoc",
        "crawl",
        "extract",
        "read",
        "clean",
        "filter",
        "dedup",
        "dialogues",
        "decontaminate",
        "ambiguity",
        "balance",
        "mask",
        "outliers",
        "language",
        "classifier",
        "score",
        "exercises",
    )
    code = f"from bessemer.stages import find; import sys; [find(name) for name in {names}]; print(*sys.modules)"
    assert "torch" not in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_print_size_alarms(capsys: pytest.CaptureFixture[str]):
    """An alarm, not a limit: long files and functions want splitting by idea. The suite prints them; folders past 12 files fail."""
    alarms = []
    for path in FILES:
        text = path.read_text()
        if text.count("\n") > 400:
            alarms.append(f"{path.relative_to(PACKAGE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                alarms.append(f"{path.relative_to(PACKAGE)}:{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines")
    with capsys.disabled():
        for alarm in alarms:
            print(f"\nsize alarm: {alarm}")
    crowded = [str(folder) for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "stages" and len(list(folder.glob("*.py"))) > 13]
    assert not crowded
