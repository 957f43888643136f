"""Write one HTML page that shows how a model was made and what it can do. It opens offline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bessemer.core import artifact
from bessemer.core.config import Count
from bessemer.corpus import documents as docs
from bessemer.eval import exhibits


@dataclass(frozen=True)
class ReportConfig:
    title: str = "How this model was made"  # heading of the page
    answers: Count = 8  # held-out questions shown with every model's answer, spread evenly
    pairs: Count = 6  # preference pairs shown, likewise
    examples: Count = 3  # documents shown per reason of refusal


def report(
    corpus: tuple[Path, ...],
    tokenizer: Path | None,
    models: tuple[Path, ...],
    dialogues: Path | None,
    preferences: Path | None,
    evaluation: Path | None,
    *,
    out: Path,
    cfg: ReportConfig,
) -> dict[str, float]:
    """Write out/report.html. `corpus` names the stages from crawl to deduplication in order, `models` the checkpoints in order."""
    single = [path for path in (tokenizer, dialogues, preferences, evaluation) if path]
    given = [*corpus, *models, *single]
    if not given:
        raise ValueError("nothing to report: name at least one artifact")
    documents = next((path for path in reversed(corpus) if any(path.glob("part-*.parquet"))), None)
    page: dict[str, Any] = {
        "title": cfg.title,
        "corpus": [exhibits.corpus_stage(path, cfg.examples) for path in corpus],
        "samples": exhibits.samples(documents, cfg.examples) if documents else [],
        "tokenizer": exhibits.tokens(tokenizer, exhibits.sentence(docs.texts(documents) if documents else [], cfg.title)) if tokenizer else None,
        "models": [exhibits.training(path) for path in models],
        "dialogues": exhibits.dialogues(dialogues) if dialogues else None,
        "preferences": exhibits.preferences(preferences, cfg.pairs) if preferences else None,
        "evaluation": exhibits.evaluation(evaluation, cfg.answers) if evaluation else None,
        "lineage": exhibits.lineage(given),
    }
    page |= {"headline": exhibits.headline(page), "most_pages": max([1, *(stage["kept"] for stage in page["corpus"])])}
    html = render(page)
    with artifact.atomic(out / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return {"bytes": len(html.encode("utf-8", "replace")), "figures": html.count("<svg"), "stages": len(page["lineage"])}


def render(page: dict[str, Any]) -> str:
    """The page as HTML. Whatever came from a crawl or a model is escaped."""
    environment = Environment(
        loader=PackageLoader("bessemer.eval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = exhibits.number
    environment.filters["duration"] = exhibits.duration
    return environment.get_template("report.html").render(page)
