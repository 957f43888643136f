"""recipes/corpus.toml, on a few packages: every stage of the data side does its part, and a document can be followed through all of them."""

from pathlib import Path

import pytest

from bessemer.core import artifact, jsonl
from bessemer.core import recipe as recipes
from bessemer.corpus import documents, lineage
from bessemer.stages import find

RECIPE = Path(__file__).parents[2] / "recipes" / "corpus.toml"
WAY = ["extract", "language", "clean", "filter", "mask", "outliers", "dedup", "scored", "balanced", "documentation"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    patch = pytest.MonkeyPatch()
    patch.chdir(RECIPE.parents[1])  # the recipe reads the project's own source and documentation
    small = {"[pydoc]\n": '[pydoc]\npackages = ["json", "email", "unittest"]\n', "steps = 60": "steps = 3", "vocab = 4096": "vocab = 600"}
    text = RECIPE.read_text()
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "corpus.toml").write_text(text)
    yield recipes.run(recipes.load(folder / "corpus.toml", find), folder / "store")
    patch.undo()


@pytest.mark.slow
def test_each_stage_does_its_part(made: dict[str, Path]) -> None:
    numbers = {name: artifact.read_manifest(path)["numbers"] for name, path in made.items()}  # type: ignore[index]
    assert numbers["code"]["documents"] > 100 and numbers["handbook"]["documents"] >= 4
    assert sum(name.startswith("broken: ") for name in numbers["filter"]) >= 1  # unittest.signals has nine words
    assert numbers["mask"]["masked: email"] > 0 and 0 < numbers["dedup"]["documents"] <= numbers["filter"]["documents"]
    assert numbers["kind"]["accuracy"] > 0.9
    assert {row["language"] for row in documents.read(made["balanced"], ["language"])} == {"en"}
    assert numbers["documentation"]["documents with spans"] > 0 and any((made["documentation"] / "split").iterdir())
    assert jsonl.read(made["consistent"] / "train.jsonl")
    assert {path.name for path in made["tokens"].iterdir() if path.is_dir()} >= {"documentation", "source", "handbook"}
    rows = sum(n for name, n in numbers["base"].items() if name.endswith((": main rows", ": anneal rows")))
    assert rows == 3 * 8 and "report.html" in {path.name for path in made["report"].iterdir()}


@pytest.mark.slow
def test_a_document_is_followed_from_the_page_to_the_mix(made: dict[str, Path]) -> None:
    row = next(documents.read(made["documentation"]))
    assert {"language_score", "words", "masked", "perplexity", "code_like", "weight", "contaminated"} <= row.keys()
    way = dict(lineage.trace(made["documentation"], row["url"]))
    assert [name for name in WAY if name in way] == WAY and all(step["source"] == row["source"] for step in way.values())
    levels = lineage.funnel(artifact.ancestors(made["documentation"]))
    assert {level.name for level in levels} >= set(WAY)
