"""Objectives of every row source: right against loops, independent of the micro-batch and of packing, and they teach."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.data.labelled import Example, LabelledRows
from bessemer.data.seq2seq import Seq2SeqRows
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Objective, classify, extract, masked_pair, picked, predict, predict_ahead

SMALL = {"vocab": 52, "width": 32, "depth": 2, "heads": 4, "kv_heads": 4, "hidden": 48, "context": 32}
CLS, SEP, MASK = 49, 50, 51


def built(scale: float = 1.0, **settings) -> Model:
    model = Model(ModelConfig(**{**SMALL, **settings}))
    initialise(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(scale)
    return model


def counting(draw: torch.Generator, rows: int, length: int) -> Tensor:
    """Counting by ones, twos or threes modulo 48."""
    start, stride = torch.randint(0, 48, (rows, 1), generator=draw), torch.randint(1, 4, (rows, 1), generator=draw)
    return (start + stride * torch.arange(length)) % 48


def masked(step: int) -> dict[str, Tensor]:
    """A number below 24 again and again, six of 32 hidden, of which a random few weigh."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 24, (8, 1), generator=draw).expand(8, 32)
    places = torch.rand(8, 32, generator=draw).argsort(1)[:, :6]
    weight = torch.rand(8, 6, generator=draw).round()
    weight[0], weight[3] = 1.0, 0.0
    return {"tokens": ids.scatter(1, places, MASK), "picked": places, "targets": ids.gather(1, places), "token_weight": weight}


def paired(step: int) -> dict[str, Tensor]:
    """The same as a first text, and a second that goes on, or has a number above 23."""
    draw = torch.Generator().manual_seed(step)
    batch, other = masked(step), torch.randint(0, 2, (8,), generator=draw)
    types = (torch.arange(32) >= 16).long().expand(8, 32).contiguous()
    above = 24 * types * other[:, None]
    tokens = torch.where(batch["tokens"] == MASK, MASK, batch["tokens"] + above)
    tokens[:, 0] = CLS
    targets = batch["targets"] + above.gather(1, batch["picked"])
    return batch | {"tokens": tokens, "targets": targets, "types": types, "pair_targets": other, "row_weight": torch.rand(8, generator=draw)}


def examples(count: int, draw: np.random.Generator, span: bool = False) -> list[Example]:
    """Texts of random numbers below 40. The one of 40, 41, 42 that is among them is the class; an answer lies between 43 and 44."""
    found = []
    for _ in range(count):
        ids = draw.integers(0, 40, size=int(draw.integers(4, 12)))
        low, high = sorted(draw.choice(len(ids), 2, replace=False).tolist())
        kind = int(draw.integers(3))
        ids[low], ids[high] = (43, 44) if span else (40 + kind, ids[high])
        framed = [CLS, *ids.tolist(), SEP]
        found.append(Example(framed, [0] * len(framed), [0], [low + 1], [high + 1]) if span else Example(framed, [0] * len(framed), [0], [kind]))
    return found


def labelled(span: bool = False) -> Callable[[int], dict[str, Tensor]]:
    return LabelledRows(examples(400, np.random.default_rng(0), span), 32, 8, 0)


def translated(step: int) -> dict[str, Tensor]:
    """A number said six times, and said three times more: several such pairs in a row."""
    numbers = np.random.default_rng(step).integers(0, 40, 24).tolist()
    return Seq2SeqRows([([number] * 6 + [SEP], [number] * 3 + [SEP]) for number in numbers], 24, 12, 8, 0, SEP).rows(np.arange(8))


def begun(step: int) -> dict[str, Tensor]:
    """Two counts in a row, the beginning of each a prefix."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.cat([counting(draw, 8, 17), counting(draw, 8, 17)], dim=1)
    place = torch.cat([torch.arange(16), torch.arange(16)]).expand(8, 32)
    inputs, targets = (torch.cat([ids[:, part : part + 16], ids[:, 17 + part : 33 + part]], dim=1) for part in (0, 1))
    length = torch.randint(0, 12, (8, 1), generator=draw)
    segment = torch.ones(8, 32).long().cumsum(1).gt(16).long() + 1
    weight = (place >= length - 1) * torch.rand(8, 32, generator=draw)
    return {"tokens": inputs, "targets": targets, "at": place.clone(), "segment": segment, "prefix": place < length, "token_weight": weight}


def plain(step: int) -> dict[str, Tensor]:
    """The same, read from left to right."""
    return {name: column for name, column in begun(step).items() if name != "prefix"}


Case = tuple[Objective, Callable[[int], dict[str, Tensor]], dict]
CASES: dict[str, Case] = {
    "masked": (predict, masked, {"shape": "encoder"}),
    "masked_pair": (masked_pair, paired, {"shape": "encoder", "head": "lm+pair", "types": 2}),
    "classify": (classify, labelled(), {"shape": "encoder", "head": "sequence", "labels": 3}),
    "tags": (classify, labelled(), {"shape": "encoder", "head": "tokens", "labels": 3}),
    "extract": (extract, labelled(span=True), {"shape": "encoder", "head": "span"}),
    "seq2seq": (predict, translated, {"shape": "encdec", "position": "bias"}),
    "prefix": (predict, begun, {"prefix": True}),
    "ahead": (predict_ahead(0.5), plain, {"ahead": 2}),
}


def train(name: str, folder: Path, steps: int, **settings) -> tuple[Model, list[dict]]:
    objective, source, shape = CASES[name]
    model = built(**shape)
    cfg = FitConfig(**{"steps": steps, "batch": 8, "precision": "fp32", "compile": False, "log_every": 1, "lr": 1e-2, **settings})
    return model, list(fit(model, objective, source, cfg, folder, [source(10_000)]))


@pytest.mark.parametrize("name", CASES)
def test_the_result_does_not_depend_on_the_micro_batch(name: str, tmp_path: Path):
    whole, rows = train(name, tmp_path / "whole", 3)
    for size in (1, 3):
        split, split_rows = train(name, tmp_path / str(size), 3, micro_batch=size)
        for (key, a), b in zip(whole.named_parameters(), split.parameters(), strict=True):
            # One number added to the scores of all places changes no choice among them: its gradient is rounding, which AdamW makes large.
            if (name, key) != ("extract", "label.bias"):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
        for a, b in zip(rows, split_rows, strict=True):
            terms = [term for term in a if term.endswith(("loss", "accuracy", "exact"))]
            assert [a[term] for term in terms] == pytest.approx([b[term] for term in terms], rel=1e-3, abs=1e-4)


# The first step costs about ln 52 = 4 nats a token, ln 3 = 1.1 a class, ln 2 = 0.7 a pair, ln 10 = 2.3 a place.
@pytest.mark.parametrize(
    ("name", "steps", "bounds"),
    [
        ("masked", 100, {"val_loss": 0.3}),
        ("masked_pair", 120, {"val_pair_loss": 0.2, "val_mlm_loss": 0.5}),
        ("classify", 50, {"val_loss": 0.2}),
        ("extract", 50, {"val_start_loss": 0.2, "val_end_loss": 0.2}),
        ("seq2seq", 100, {"val_loss": 0.2}),
        ("prefix", 120, {"val_loss": 0.7}),
        ("ahead", 150, {"val_loss": 1.0, "val_ahead_1_loss": 0.3, "val_ahead_2_loss": 0.3}),
    ],
)
def test_it_learns(name: str, steps: int, bounds: dict[str, float], tmp_path: Path):
    _, rows = train(name, tmp_path, steps, log_every=steps)
    assert all(rows[-1][term] < bound for term, bound in bounds.items())


def test_picked_places_are_those_of_the_whole_row():
    model, batch = built(3, shape="encoder"), masked(0)
    whole = model.logits(model(batch["tokens"])).log_softmax(-1)
    expected = torch.stack(
        [
            torch.stack([-whole[b, t, y] for t, y in zip(places, targets, strict=True)])
            for b, (places, targets) in enumerate(zip(batch["picked"], batch["targets"], strict=True))
        ]
    )
    torch.testing.assert_close(predict(model, batch)["loss"], expected)
    hidden = torch.arange(24.0).view(2, 4, 3)
    assert picked(hidden, torch.tensor([[3, 0], [1, 1]])).tolist() == [[[9, 10, 11], [0, 1, 2]], [[15, 16, 17], [15, 16, 17]]]


def test_masked_pair_is_the_sum_of_its_parts():
    model, batch = built(3, shape="encoder", head="lm+pair", types=2), paired(1)
    terms = masked_pair(model, batch)
    torch.testing.assert_close(terms["mlm_loss"], predict(model, batch)["loss"])
    scores = model.classify(model(batch["tokens"], types=batch["types"])[:, 0])
    torch.testing.assert_close(terms["pair_loss"], torch.stack([-scores[b].log_softmax(0)[y] for b, y in enumerate(batch["pair_targets"])]))
    assert terms["pair_accuracy"].tolist() == [float(scores[b, y] > scores[b, 1 - y]) for b, y in enumerate(batch["pair_targets"])]
    other = masked_pair(model, batch | {"types": torch.zeros_like(batch["types"])})
    assert not torch.allclose(other["pair_loss"], terms["pair_loss"])  # the types are seen


def test_an_answer_is_chosen_among_its_examples_own_tokens():
    """Each example's losses are those of a softmax over its tokens alone, in a row of its own."""
    texts = examples(20, np.random.default_rng(1), span=True)
    source, model = LabelledRows(texts, 32, 8, 0), built(3, shape="encoder", head="span")
    terms, right = extract(model, source.rows(np.arange(source.count))), 0
    for row, owners in enumerate(source.owner.tolist()):
        for place, item in enumerate(owners):
            if item >= 0:
                start, end = model.classify(model(torch.tensor([texts[item].ids])))[0].unbind(-1)
                torch.testing.assert_close(terms["start_loss"][row, place], -start.log_softmax(0)[texts[item].targets[0]], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(terms["end_loss"][row, place], -end.log_softmax(0)[texts[item].ends[0]], atol=1e-5, rtol=1e-4)
                exact = int(start.argmax()) == texts[item].targets[0] and int(end.argmax()) == texts[item].ends[0]
                assert bool(terms["exact"][row, place]) == exact
                right += exact
    assert terms["start_loss"].isfinite().all() and source.count < 20


def test_exact_needs_both_ends():
    """Scores that name place 1 and 2: exact for an answer there, not where one end is another."""
    batch = {"tokens": torch.zeros(1, 4).long(), "segment": torch.ones(1, 4).long(), "picked": torch.zeros(1, 3).long()}
    batch |= {"targets": torch.tensor([[1, 0, 1]]), "ends": torch.tensor([[2, 2, 3]])}
    model = built(shape="encoder", head="span")
    model.classify = lambda hidden: F.one_hot(torch.tensor([[1, 2]]), 4).transpose(1, 2) * 9.0  # type: ignore[method-assign, assignment]
    assert extract(model, batch)["exact"].tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_packed_examples_are_classified_as_alone(head: str):
    texts = examples(20, np.random.default_rng(1))
    source, model = LabelledRows(texts, 32, 8, 0), built(3, shape="encoder", head=head, labels=3)
    terms = classify(model, source.rows(np.arange(source.count)))
    for row, owners in enumerate(source.owner.tolist()):
        for place, item in enumerate(owners):
            if item >= 0:
                scores = model.classify(model(torch.tensor([texts[item].ids])))[0, 0]
                torch.testing.assert_close(terms["loss"][row, place], -scores.log_softmax(0)[texts[item].targets[0]], atol=1e-5, rtol=1e-4)
                assert terms["accuracy"][row, place] == float(int(scores.argmax()) == texts[item].targets[0])


def test_packed_translations_are_read_as_alone():
    draw = np.random.default_rng(2)
    pairs = [([*draw.integers(0, 40, 3 + n % 5).tolist(), SEP], [*draw.integers(0, 40, 2 + n % 3).tolist(), SEP]) for n in range(12)]
    model = built(3, shape="encdec", position="sinusoidal")

    def total(rows: list[tuple[list[int], list[int]]]) -> float:
        source = Seq2SeqRows(rows, 24, 24, 1, 0, SEP)
        batch = source.rows(np.arange(source.count))
        return (predict(model, batch)["loss"] * batch["token_weight"]).sum().item()

    assert Seq2SeqRows(pairs, 24, 24, 1, 0, SEP).count < 12
    assert total(pairs) == pytest.approx(sum(total([pair]) for pair in pairs), rel=1e-5)


def test_a_target_sees_its_own_source():
    batch, model = translated(0), built(3, shape="encdec", position="sinusoidal")
    before = predict(model, batch)["loss"]
    changed = batch | {"source_tokens": torch.where(batch["source_segment"] == 2, 5, batch["source_tokens"])}
    moved = (predict(model, changed)["loss"] - before).abs() > 1e-6
    assert moved[batch["segment"] == 2].all() and not moved[batch["segment"] != 2].any()


def test_a_prefix_is_seen_both_ways():
    """A change at the end of a prefix moves what its first token says, one after it does not."""
    model, batch = built(3, prefix=True), begun(0)
    row = int(batch["prefix"][:, :16].sum(1).argmax())
    length = int(batch["prefix"][row, :16].sum())
    before = predict(model, batch)["loss"][row, 0]
    for place, moves in ((length - 1, True), (length, False)):
        tokens = batch["tokens"].clone()
        tokens[row, place] = 7 if tokens[row, place] != 7 else 8
        after = predict(model, batch | {"tokens": tokens})["loss"][row, 0]
        assert bool((after - before).abs() > 1e-6) == moves


def test_ahead_losses_stand_at_their_targets_and_end_with_the_document():
    model, batch = built(3, ahead=2), plain(3)
    terms = predict_ahead(0.5)(model, batch)
    hidden = model(batch["tokens"], batch["at"], batch["segment"])
    torch.testing.assert_close(terms["loss"], predict(model, batch)["loss"])
    for n, further in enumerate(model.ahead(hidden, batch["at"], batch["segment"]), 1):
        scores = model.logits(further).log_softmax(-1)
        for b in range(8):
            for t in range(32):
                found = terms[f"ahead_{n}_loss"][b, t]
                if t % 16 < n:
                    assert found == 0
                else:
                    torch.testing.assert_close(found, -0.5 * scores[b, t - n, batch["targets"][b, t]])
    assert set(terms) == {"loss", "ahead_1_loss", "ahead_2_loss"}
