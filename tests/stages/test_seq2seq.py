"""Fine-tuning an encoder-decoder: it learns to translate sentences it never saw, and opens in transformers with the same text."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from bessemer.core import jsonl
from bessemer.core.recipe import load
from bessemer.decode import chat
from bessemer.decode.chat import ChatConfig
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.stages import find, seq2seq
from bessemer.stages.seq2seq import Seq2SeqConfig
from bessemer.tokenizer import bpe, special
from bessemer.tokenizer.tokenizer import Tokenizer

FRENCH = {
    "the": "le", "a": "un", "farmer": "paysan", "teacher": "maitre", "child": "gamin", "sees": "voit", "carries": "porte", "forgets": "oublie",
    "lantern": "fanal", "letter": "pli", "horse": "cheval", "today": "ce jour", "often": "souvent",
}  # fmt: skip
SENTENCES = [
    f"{one} {who} {does} {other} {what} {when}"
    for one in ("the", "a")
    for who in ("farmer", "teacher", "child")
    for does in ("sees", "carries", "forgets")
    for other in ("the", "a")
    for what in ("lantern", "letter", "horse")
    for when in ("today", "often")
]
CFG = Seq2SeqConfig(steps=90, batch=8, optimizer="muon", lr=1e-2, precision="fp32", compile=False, eval_every=90, target_context=32)


def rows(sentences: Sequence[str]) -> list[dict[str, str]]:
    return [{"source": text, "target": " ".join(FRENCH[word] for word in text.split())} for text in sentences]


def untrained(folder: Path, tokenizer: Path, **changed: Any) -> Path:
    """A T5-shaped checkpoint that has learnt nothing, or one with fields `changed`."""
    words = Tokenizer.load(tokenizer)
    shape: dict[str, Any] = {"shape": "encdec", "position": "bias", "vocab": words.vocab}
    model = Model(ModelConfig(**{"width": 48, "depth": 2, "heads": 4, "kv_heads": 4, "hidden": 96, "context": 64, **shape, **changed}))
    initialise(model, 0)
    folder.mkdir()
    weights.save(model, folder, tokenizer, [words.end_of_text], words.pad)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer, pairs (every fifth sentence held out), base and what became of it in `tuned`."""
    root = tmp_path_factory.mktemp("seq2seq")
    (root / "tokenizer").mkdir()
    text = " ".join(row[side] for row in rows(SENTENCES) for side in ("source", "target"))
    bpe.save(bpe.train([text], 340, special=special.tokens(masks=True, sentinels=0)), root / "tokenizer")
    (root / "pairs").mkdir()
    jsonl.write(root / "pairs" / "train.jsonl", rows([text for i, text in enumerate(SENTENCES) if i % 5]))
    jsonl.write(root / "pairs" / "heldout.jsonl", rows(SENTENCES[::5]))
    untrained(root / "base", root / "tokenizer")
    (root / "tuned").mkdir()
    numbers = seq2seq.seq2seq(root / "base", root / "pairs", out=root / "tuned", cfg=CFG)
    (root / "numbers.json").write_text(json.dumps(numbers))
    return root


def test_it_learns_to_translate_what_it_never_saw(folder: Path):
    numbers = json.loads((folder / "numbers.json").read_text())
    predictions = jsonl.read(folder / "tuned" / "predictions.jsonl")
    right = [row["prediction"] == row["target"] for row in predictions]
    assert [row["source"] for row in predictions] == SENTENCES[::5]
    assert numbers["model.exact"] == sum(right) / len(right) >= 0.5 > numbers["copy.exact"] == 0
    assert numbers["model.chrf"] > 0.9 > 2 * numbers["copy.chrf"]
    assert numbers["too_long"] == 0 and 0 < numbers["fill_source"] <= 1


def test_scores_have_intervals_and_differences(folder: Path):
    summary = json.loads((folder / "tuned" / "scores.json").read_text())
    assert {(row["system"], row["metric"]) for row in summary["scores"]} == {
        (system, metric) for system in ("model", "copy", "lead") for metric in ("exact", "rouge_1", "rouge_2", "rouge_l", "chrf", "bleu")
    }
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] == len(SENTENCES[::5]) for row in summary["scores"])
    assert [row["first"] for row in summary["differences"]] == ["copy", "lead"]
    assert all(row["low"] > 0.3 and row["p"] < 0.01 for row in summary["differences"])


def test_transformers_opens_it_and_writes_the_same(folder: Path):
    """Equal logits, and `generate` with what the checkpoint says about itself gives the same greedy text."""
    words, model = Tokenizer.load(folder / "tuned"), weights.load(folder / "tuned")
    theirs = T5ForConditionalGeneration.from_pretrained(folder / "tuned")
    for row in jsonl.read(folder / "tuned" / "predictions.jsonl")[:8]:
        source = torch.tensor([[*words.encode(row["source"]), words.end_of_text]])
        written = theirs.generate(source, max_new_tokens=CFG.target_context)[0]
        assert words.decode(written.tolist()).strip() == row["prediction"]
        with torch.no_grad():
            ours = model.logits(model(written[None, :-1], memory=model.encode(source)))
            torch.testing.assert_close(ours, theirs(input_ids=source, decoder_input_ids=written[None, :-1]).logits, atol=1e-4, rtol=0)


def test_a_long_source_is_cut_and_still_answered(folder: Path):
    words, model = Tokenizer.load(folder / "tuned"), weights.load(folder / "tuned")
    long = " ".join(SENTENCES[:30])
    cut = words.decode(words.encode(long)[: model.cfg.context - 1])
    assert seq2seq.answers(model, words, [long, SENTENCES[3]], 8) == seq2seq.answers(model, words, [cut, SENTENCES[3]], 8)


def chat_with(checkpoint: Path, said: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    chat.chat(checkpoint, ChatConfig(**settings))  # type: ignore[arg-type]


def test_chat_takes_lines_and_gives_their_translations(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Each line for itself, whatever stood before."""
    asked = jsonl.read(folder / "tuned" / "predictions.jsonl")[:3]
    chat_with(folder / "tuned", "".join(row["source"] + "\n" for row in asked), monkeypatch)
    assert capsys.readouterr().out == "".join(row["prediction"] + "\n" for row in asked)


def test_chat_refuses(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = untrained(tmp_path / "encoder", folder / "tokenizer", shape="encoder", position="learned")
    with pytest.raises(ValueError, match="is an encoder: it reads text and writes none"):
        chat_with(encoder, "a\n", monkeypatch)
    with pytest.raises(ValueError, match="tokens, 63 fit: shorten it"):
        chat_with(folder / "tuned", "the farmer " * 60 + "\n", monkeypatch)
    with pytest.raises(ValueError, match="no instruction beside it"):
        chat_with(folder / "tuned", "a\n", monkeypatch, system="be brief")


def test_wrong_bases_and_rows_are_refused(folder: Path, tmp_path: Path):
    def refused(said: str, base: Path = folder / "base", pairs: Path = folder / "pairs", cfg: Seq2SeqConfig = CFG) -> None:
        with pytest.raises(ValueError, match=said):
            seq2seq.seq2seq(base, pairs, out=tmp_path, cfg=cfg)

    tokenizer = folder / "tokenizer"
    refused("is a model of shape decoder, and encdec is needed", untrained(tmp_path / "decoder", tokenizer, shape="decoder", position="rope"))
    refused("its tokenizer has 340 entries, its model only 300", untrained(tmp_path / "other", tokenizer, vocab=300))
    refused("none of .* rows fits 64 tokens of source and 2 of target", cfg=replace(CFG, target_context=2))
    refused(r"target_context \(65\) is more than the base's context of 64 tokens", cfg=replace(CFG, target_context=65))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train.jsonl").write_text('{"source": "a"}\n')
    refused("train.jsonl: row 1: target must be a text", pairs=tmp_path / "half")
    with pytest.raises(FileNotFoundError, match=r"heldout\.jsonl"):
        (tmp_path / "half" / "train.jsonl").write_text('{"source": "a", "target": "b"}\n')
        seq2seq.seq2seq(folder / "base", tmp_path / "half", out=tmp_path, cfg=CFG)


RECIPE = """
[tokenizer]
documents = ["{folder}"]
sentinels = 100

[tokens]
documents = ["{folder}"]

[base]
stage = "pretrain"
shape = "{shape}"
objective = "{objective}"

[exercises]
documents = "{folder}"
kind = "{kind}"

[tuned]
stage = "seq2seq"
base = "base"
rows = "exercises"
target_context = {length}
"""


def test_plan_knows_the_cost_and_refuses(tmp_path: Path):
    def planned(shape: str, objective: str, length: int, kind: str = "summarise") -> float:
        (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path, shape=shape, objective=objective, length=length, kind=kind))
        return load(tmp_path / "recipe.toml", find)[-1].estimate["flops"]

    assert planned("encdec", "spans", 64) < planned("encdec", "spans", 0)
    with pytest.raises(ValueError, match="base is a model of shape decoder, and encdec is needed"):
        planned("decoder", "next", 0)
    with pytest.raises(ValueError, match=r"target_context \(999\) is more than the base's context of 256 tokens"):
        planned("encdec", "spans", 999)
    with pytest.raises(ValueError, match="rows of kind = tag have no source and target"):
        planned("encdec", "spans", 0, kind="tag")
