"""Fine-tuning: what is kept, what is learned, what transformers sees, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, LlamaForSequenceClassification

from bessemer.core import jsonl
from bessemer.core.recipe import load
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise, with_head
from bessemer.stages import find
from bessemer.stages.finetune import FinetuneConfig, Task, finetune
from bessemer.tokenizer import bpe, special
from bessemer.tokenizer.tokenizer import Tokenizer

WHO, WHAT = ["farmer", "teacher", "uncle", "engineer"], ["machine", "lantern", "letter"]
WHERE = {"high": "mountains", "wet": "harbour", "quiet": "library"}
SENTENCES = [(who, what, label, f"The {who} sees the {what} in the {where}.") for who in WHO for what in WHAT for label, where in WHERE.items()]
ROWS: dict[Task, list[dict[str, Any]]] = {
    "classify": [{"text": text, "label": label} for _, _, label, text in SENTENCES],
    "tag": [
        {"words": text[:-1].split(), "tags": ["B-WHO" if word == who else "B-WHAT" if word == what else "O" for word in text[:-1].split()]}
        for who, what, _, text in SENTENCES
    ],
    "answer": [{"question": "Who sees?", "context": text, "answer": who, "start": 4} for who, _, _, text in SENTENCES],
}
THEIRS = {"classify": BertForSequenceClassification, "tag": BertForTokenClassification, "answer": BertForQuestionAnswering}
SHAPES: dict[str, dict[str, Any]] = {
    "encoder": {
        "shape": "encoder", "head": "lm+pair", "position": "learned", "bias": "all", "ffn": "dense", "act": "gelu", "norm": "layer",
        "norm_at": "post", "embed_norm": True, "types": 2, "kv_heads": 4,
    },
    "decoder": {},
    "encdec": {"shape": "encdec", "position": "bias", "reach": 64},
}  # fmt: skip
QUICK = FinetuneConfig(steps=40, batch=4, lr=5e-3, precision="fp32", compile=False, stride=16, log_every=20, eval_every=20)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained checkpoints of every shape with one tokenizer, and a decoder's without mask tokens."""
    found = {}
    for masks in (True, False):
        words = tmp_path_factory.mktemp("words")
        bpe.save(bpe.train([" ".join(text for *_, text in SENTENCES)] * 3, 320, special=special.tokens(masks=masks)), words)
        for shape, fields in SHAPES.items():
            model = Model(ModelConfig(**{"vocab": 320, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "context": 48} | fields))
            initialise(model, 1)
            folder = tmp_path_factory.mktemp(shape)
            weights.save(model, folder, words, [Tokenizer.load(words).end_of_text], 0 if shape == "encdec" else None)
            found[shape if masks else f"{shape} without masks"] = folder
    return found


def written(folder: Path, task: Task, heldout: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.write(folder / "train.jsonl", [row for number, row in enumerate(ROWS[task]) if number % 4])
    jsonl.write(folder / "heldout.jsonl", heldout or ROWS[task][::4])
    return folder


def run(base: Path, task: Task, folder: Path, **changes: Any) -> dict[str, float]:
    (folder / "out").mkdir(parents=True)
    return finetune(base, written(folder / "rows", task), out=folder / "out", cfg=replace(QUICK, task=task, **changes))


@pytest.mark.parametrize(("task", "score"), [("classify", "accuracy"), ("tag", "f1"), ("answer", "exact")])
def test_an_encoder_learns_each_task_and_transformers_sees_the_same(task: Task, score: str, bases: dict[str, Path], tmp_path: Path):
    numbers = run(bases["encoder"], task, tmp_path)
    assert numbers[score] >= 0.9 and numbers[f"{score}_low"] <= numbers[score] <= numbers[f"{score}_high"]
    assert task == "tag" or numbers[f"baseline_{score}"] < 0.5  # words say their tags here, so looking them up is enough
    rows = jsonl.read(tmp_path / "out" / "predictions.jsonl")
    told = {"classify": "label", "tag": "tags", "answer": "answer"}[task]
    assert sum(row["predicted"] == row[told] for row in rows) >= 0.9 * len(rows) and len(rows) == numbers["heldout"]

    ours, theirs = weights.load(tmp_path / "out"), THEIRS[task].from_pretrained(tmp_path / "out").eval()
    words = Tokenizer.load(tmp_path / "out")
    ids = torch.tensor([[words.cls, *words.encode("The teacher sees the"), words.sep, *words.encode("letter."), words.sep]])
    types = torch.tensor([[0] * 7 + [1] * (ids.shape[1] - 7)])
    with torch.no_grad():
        given, scores = theirs(ids, token_type_ids=types), ours.classify(ours(ids, types=types))
    if task == "answer":
        torch.testing.assert_close(torch.stack([given.start_logits, given.end_logits], -1), scores, atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(given.logits, scores[:, 0] if task == "classify" else scores, atol=1e-5, rtol=1e-4)
        names = {"classify": ["high", "quiet", "wet"], "tag": ["B-WHAT", "B-WHO", "I-WHAT", "I-WHO", "O"]}[task]
        assert weights.labels(tmp_path / "out") == names and theirs.config.id2label == dict(enumerate(names))


def test_a_decoder_classifies_at_its_last_token(bases: dict[str, Path], tmp_path: Path):
    assert run(bases["decoder"], "classify", tmp_path)["accuracy"] >= 0.9
    ours, theirs = weights.load(tmp_path / "out"), LlamaForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    words = Tokenizer.load(tmp_path / "out")
    for row in jsonl.read(tmp_path / "out" / "predictions.jsonl"):
        ids = torch.tensor([[words.cls, *words.encode(row["text"]), words.sep]])
        with torch.no_grad():
            scores = ours.classify(ours(ids))[0, -1]
            torch.testing.assert_close(theirs(ids).logits[0], scores, atol=1e-5, rtol=1e-4)
        assert weights.labels(tmp_path / "out")[int(scores.argmax())] == row["predicted"]


def test_the_trunk_and_the_pooler_are_kept_and_the_head_is_new(bases: dict[str, Path]):
    base = weights.load(bases["encoder"])
    for head, labels in (("sequence", 3), ("sequence", 2), ("tokens", 2), ("span", 0)):
        model = with_head(base, head, labels, 0)  # type: ignore[arg-type]
        for name, weight in model.state_dict().items():
            if not name.startswith("label."):
                torch.testing.assert_close(weight, base.state_dict()[name], rtol=0, atol=0)
                assert weight.data_ptr() != base.state_dict()[name].data_ptr()
        assert any(name.startswith("pool.") for name in model.state_dict()) == (head == "sequence")
        if labels == 2 and head == "sequence":  # of the same shape as the pair head, yet not that one
            assert not torch.equal(model.label.weight, base.label.weight)


def test_a_killed_run_ends_with_the_same_weights(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(bases["encoder"], "tag", tmp_path / "whole", steps=12, save_every=5)
    save = weights.save
    monkeypatch.setattr(weights, "save", lambda *given, **named: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(bases["encoder"], "tag", tmp_path / "killed", steps=12, save_every=5)
    monkeypatch.setattr(weights, "save", save)
    cfg = replace(QUICK, task="tag", steps=12, save_every=5)
    finetune(bases["encoder"], tmp_path / "killed" / "rows", out=tmp_path / "killed" / "out", cfg=cfg)
    for name in ("model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "killed" / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()


def test_long_texts_are_cut_and_their_last_words_are_no_entities(bases: dict[str, Path], tmp_path: Path):
    long = {"words": ["lantern"] * 200, "tags": ["B-WHAT"] * 200}
    rows = written(tmp_path / "rows", "tag", [long])
    (tmp_path / "out").mkdir()
    numbers = finetune(bases["encoder"], rows, out=tmp_path / "out", cfg=replace(QUICK, task="tag"))
    (row,) = jsonl.read(tmp_path / "out" / "predictions.jsonl")
    assert len(row["predicted"]) == 200 and set(row["predicted"][-100:]) == {"O"} and numbers["recall"] < 0.5


@pytest.mark.parametrize(
    ("task", "base", "said"),
    [
        ("tag", "decoder", "task = tag needs a base of shape encoder, and .* is of shape decoder"),
        ("answer", "decoder", "task = answer needs a base of shape encoder"),
        ("classify", "encdec", "task = classify needs a base of shape encoder or decoder, and .* is of shape encdec"),
        ("classify", "encoder without masks", "no cls token; train one with masks = true"),
    ],
)
def test_a_base_that_cannot_is_refused(task: Task, base: str, said: str, bases: dict[str, Path], tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        run(bases[base], task, tmp_path)


def test_rows_of_another_kind_are_refused(bases: dict[str, Path], tmp_path: Path):
    rows = written(tmp_path / "rows", "tag")
    with pytest.raises(
        ValueError, match=r"train\.jsonl: row 1: task = classify reads text, label; text, label is missing, and there are tags, words"
    ):
        finetune(bases["encoder"], rows, out=tmp_path, cfg=QUICK)
    rows = written(tmp_path / "other", "classify", [{"text": "a", "label": "dry"}])
    with pytest.raises(ValueError, match=r"heldout\.jsonl: row 1: label 'dry' is not one of the training rows' \(high, quiet, wet\)"):
        finetune(bases["encoder"], rows, out=tmp_path, cfg=QUICK)


def test_a_tokenizer_that_is_too_large_is_refused(bases: dict[str, Path], tmp_path: Path):
    model = with_head(weights.load(bases["encoder"]), "span", 0, 0)
    small = Model(replace(model.cfg, vocab=300))
    (tmp_path / "base").mkdir()
    weights.save(small, tmp_path / "base", bases["encoder"], [0])
    with pytest.raises(ValueError, match="its tokenizer has 320 entries, its model only 300"):
        run(tmp_path / "base", "classify", tmp_path / "run")


RECIPE = """
[exercises]
documents = {folder}
kind = "tag"
[tokenizer]
documents = {folder}
masks = true
[tokens]
documents = [{folder}]
[base]
stage = "pretrain"
{model}
[finetune]
rows = "exercises"
task = "{task}"
"""


@pytest.mark.parametrize(
    ("task", "model", "said"),
    [
        ("classify", "", "task = classify needs other rows than exercises of kind = tag"),
        ("tag", "", "task = tag needs a base of shape encoder, and base is of shape decoder"),
        ("tag", 'objective = "masked"\nshape = "encoder"', ""),
    ],
)
def test_a_recipe_that_cannot_work_fails_before_any_work(task: Task, model: str, said: str, tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(task=task, model=model, folder=json.dumps(str(tmp_path))))
    if said:
        with pytest.raises(ValueError, match=said):
            load(tmp_path / "recipe.toml", find)
    else:
        assert load(tmp_path / "recipe.toml", find)[-1].estimate["flops"] > 0
