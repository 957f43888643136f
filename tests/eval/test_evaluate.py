"""The evaluate stage on small real checkpoints: what it measures, that it repeats itself, and that a killed run goes on."""

import json
from pathlib import Path

import pytest
import torch

from bessemer.core import artifact
from bessemer.core import recipe as recipes
from bessemer.corpus import documents as store
from bessemer.eval import answer, exhibits, measure, overlap
from bessemer.eval.scores import spread
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.stages import find
from bessemer.stages.evaluate import EvaluateConfig, evaluate, read_choices
from bessemer.tokenizer.tokenizer import Tokenizer

WORDS = ["json", "dumps", "loads", "list", "dict", "module", "returns", "the", "a", "value", "of", "file", "path", "open", "read", "write"]
TEXTS = [f"The function {a}_{b} {c} a {a}.\n" * 12 for a in WORDS[:6] for b in WORDS[6:9] for c in WORDS[10:13]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, tokenizer and tokens by their stages; two checkpoints of random weights; dialogues."""
    root = tmp_path_factory.mktemp("world")
    rows = [{"id": store.identifier(f"u{i:03}"), "url": f"u{i:03}", "title": "t", "text": text, "source": "w:0"} for i, text in enumerate(TEXTS)]
    store.write(store.shard(root / "documents", 0), rows)
    for name, inputs, cfg in [
        ("tokenizer", {"documents": (root / "documents",)}, {"vocab": 300}),
        ("tokens", {"documents": (root / "documents",), "tokenizer": root / "tokenizer"}, {"held_out": 0.4}),
    ]:
        stage = find(name)
        artifact.make(stage, inputs, stage.config(**cfg), root / name)
    tokenizer = Tokenizer.load(root / "tokenizer")
    for number, (name, end) in enumerate({"base": [tokenizer.end_of_text], "sft": [tokenizer.end_of_turn, tokenizer.end_of_text]}.items()):
        model = Model(ModelConfig(vocab=300, width=32, depth=1, heads=2, kv_heads=1, head_width=16, hidden=32, context=128))
        initialise(model, number)
        (root / name).mkdir()
        weights.save(model, root / name, root / "tokenizer", end)
    (root / "dialogues").mkdir()
    heldout = [
        {"id": f"h{i}", "kind": ("short", "long")[i % 3 == 0], "messages": [
            {"role": "user", "content": f"What is {WORDS[i % 9]}?"}, {"role": "assistant", "content": TEXTS[i][:30]}]}
        for i in range(30)
    ]  # fmt: skip
    choices = [{"id": f"c{i}", "question": f"What is {WORDS[i % 9]}?", "choices": WORDS[i % 7 : i % 7 + 4], "answer": i % 4} for i in range(30)]
    for file, lines in (("heldout", heldout), ("choice", choices)):
        (root / "dialogues" / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


CFG = EvaluateConfig(questions=12, choices=10, text_tokens=2000, max_tokens=8)


def run(world: Path, out: Path, cfg: EvaluateConfig = CFG) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    (out / "run").mkdir(exist_ok=True)
    return evaluate((world / "base", world / "sft"), world / "dialogues", world / "tokens", out=out, cfg=cfg)


def test_scores_answers_and_differences(world: Path, tmp_path: Path) -> None:
    numbers = run(world, tmp_path)
    assert set(numbers) == {
        f"{model}.{metric}" for model in ("base", "sft")
        for metric in ("bits_per_byte", "exact_match", "rouge_l", "ended", "choice", "choice_per_byte")
    }  # fmt: skip
    found = json.loads((tmp_path / "scores.json").read_text())
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["scores"])
    by = {(row["model"], row["metric"], row["kind"]): row for row in found["scores"]}
    assert by["base", "rouge_l", "all"]["n"] == 12
    parts = [by["base", "rouge_l", kind] for kind in ("short", "long")]
    assert sum(part["value"] * part["n"] for part in parts) / 12 == pytest.approx(by["base", "rouge_l", "all"]["value"], abs=1e-5)
    assert found["chance"] == 0.25
    change = next(row for row in found["differences"] if row["metric"] == "bits_per_byte")
    assert change["value"] == pytest.approx(numbers["sft.bits_per_byte"] - numbers["base.bits_per_byte"], abs=2e-6)
    # Random weights know nothing: about log2(300) bits a token.
    file = measure.token_file.load(world / "tokens" / "documents", "val", 300)
    assert numbers["base.bits_per_byte"] == pytest.approx(8.23 * len(file.ids) / file.lengths.sum(), rel=0.05)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and rows[3]["prompt"][0]["role"] == "user"
    for row in rows:
        for given in row["answers"].values():
            assert given["rouge_l"] == pytest.approx(overlap.rouge_l(given["text"], row["reference"]), abs=1e-6)


def test_the_same_input_gives_the_same_bytes_also_after_a_kill(world: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(world, whole), run(world, cut)
    for name in ("scores.json", "answers.jsonl", "run/sft.choices.json", "run/base.answers.json"):
        (cut / name).unlink()
    kept = (cut / "run" / "base.text.json").stat().st_mtime_ns
    run(world, cut)
    assert (cut / "run" / "base.text.json").stat().st_mtime_ns == kept  # not done twice
    for name in ("scores.json", "answers.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_contaminated_questions_are_also_scored_apart(world: Path, tmp_path: Path) -> None:
    """Of 30 held-out questions every second is contaminated, of the choices none; the parts make up the whole."""
    judged = tmp_path / "judged"
    (judged / "split").mkdir(parents=True)
    rows = [{"item": f"heldout/h{i}", "contaminated": i % 2 == 0} for i in range(30)]
    rows += [{"item": f"choice/c{i}", "contaminated": False} for i in range(30)]
    name = f"{world.name}-dialogues"
    (judged / "split" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out" / "run").mkdir(parents=True)
    inputs = (world / "base", world / "sft"), world / "dialogues", world / "tokens", judged
    numbers = evaluate(*inputs, out=tmp_path / "out", cfg=CFG)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    by = {(row["model"], row["metric"], row["kind"]): row for row in scores}
    clean, leaked = by["base", "rouge_l", "clean"], by["base", "rouge_l", "contaminated"]
    picked = spread(list(range(30)), 12)
    assert (clean["n"], leaked["n"]) == (sum(i % 2 for i in picked), sum(i % 2 == 0 for i in picked))
    assert (clean["value"] * clean["n"] + leaked["value"] * leaked["n"]) / 12 == pytest.approx(numbers["base.rouge_l"], abs=1e-5)
    assert by["sft", "choice", "clean"] == by["sft", "choice", "all"] | {"kind": "clean"}
    assert ("sft", "choice", "contaminated") not in by and ("sft", "bits_per_byte", "clean") not in by
    artifact.write_json(tmp_path / "out" / artifact.MANIFEST, {})
    shown = exhibits.evaluation(tmp_path / "out", 1)
    assert [kind["kind"] for kind in shown["kinds"]] == ["long", "short"]
    assert [(row["label"], row["kind"], len(row["rows"])) for row in shown["split"]][:2] == [
        ("exact match", "clean", 2),
        ("exact match", "contaminated", 2),
    ]
    (judged / "split" / f"{name}.jsonl").rename(judged / "split" / "other.jsonl")
    with pytest.raises(ValueError, match=f"has judged no benchmark {name} .it has: other"):
        evaluate(*inputs, out=tmp_path / "out", cfg=CFG)


def test_each_kind_of_model_is_asked_in_its_own_way(world: Path) -> None:
    base, sft = measure.load(world / "base"), measure.load(world / "sft")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is json? "}]
    assert (base.chat, sft.chat) == (False, True)
    plain = answer.prompt(base.tokenizer, messages, base.chat)
    assert plain[0] == base.tokenizer.end_of_text
    assert base.tokenizer.decode(plain) == "Be brief.\nQuestion: What is json?\nAnswer:"
    called = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}], "content": None}, {"role": "tool", "content": "3"}]
    assert answer.plain(called) == "Answer: \nResult: 3\nAnswer:"
    assert answer.prompt(sft.tokenizer, messages, sft.chat) == sft.tokenizer.chat(messages, reply=True)[0]


def test_a_base_answer_ends_with_its_line(world: Path) -> None:
    """A model that always says the same token: where that is a line break, the answer is empty and ended."""
    subject = measure.load(world / "base")
    for text, ended in (("\n", True), ("a", False)):
        with torch.no_grad():
            subject.model.embed.weight.zero_()
            subject.model.embed.weight[:, 0] = 1.0
            subject.model.embed.weight[subject.tokenizer.encode(text)[0], 0] = 5.0
        found = answer.answers(subject.model, subject.tokenizer, [[{"role": "user", "content": "?"}]], False, 6)
        assert (found[0].text, found[0].ended) == ("" if ended else "aaaaaa", ended)


def test_spread_takes_every_part_of_the_file() -> None:
    rows = [{"i": i} for i in range(10)]
    assert [row["i"] for row in spread(rows, 4)] == [0, 2, 5, 7]
    assert spread(rows, 99) == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"choice.jsonl:1: not JSON"),
        ('{"question": "q", "choices": ["a"], "answer": 1}', r"choice.jsonl: row 1: needs a question"),
        ('{"question": "q", "choices": ["a", ""], "answer": 0}', "not empty"),
        ("", "holds no questions"),
    ],
)
def test_bad_choice_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "choice.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_choices(tmp_path / "choice.jsonl")


def test_bad_models_are_named(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="models is empty"):
        evaluate((), world / "dialogues", world / "tokens", out=tmp_path, cfg=CFG)
    with pytest.raises(ValueError, match=r"two models are called alike \(base, base\)"):
        evaluate((world / "base", world / "base"), world / "dialogues", world / "tokens", out=tmp_path, cfg=CFG)
    with pytest.raises(ValueError, match="leave no room for a question in a context of 128"):
        run(world, tmp_path, EvaluateConfig(max_tokens=128))


def test_a_recipe_is_costed_and_checked_before_any_work(world: Path, tmp_path: Path) -> None:
    def load(max_tokens: int) -> list[recipes.Step]:
        (tmp_path / "r.toml").write_text(f"""
            [base]
            stage = "pretrain"
            tokens = "{world}/tokens"
            tokenizer = "{world}/tokenizer"
            context = 64
            [evaluation]
            stage = "evaluate"
            models = ["base", "{world}/sft"]
            dialogues = "{world}/dialogues"
            tokens = "{world}/tokens"
            max_tokens = {max_tokens}
        """)
        return recipes.load(tmp_path / "r.toml", find)

    assert load(32)[1].estimate["flops"] > load(16)[1].estimate["flops"] > 1e9
    with pytest.raises(ValueError, match="evaluation: max_tokens: answers of 64 tokens leave no room for a question in a context of 64"):
        load(64)
