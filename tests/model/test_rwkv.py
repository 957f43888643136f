"""RWKV-7 against the recurrence of its paper, against the authors' own package, and against itself in every way of reading a text."""

import dataclasses
import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.model.attend import See
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.model.rwkv.seven import Rwkv, ranks
from bessemer.model.rwkv.wkv import CHUNK, carry, wkv
from bessemer.model.seen import Cache, Pass

SMALL = ModelConfig(
    vocab=50,
    width=32,
    depth=3,
    heads=4,
    kv_heads=4,
    head_width=8,
    hidden=64,
    context=80,
    mixer="rwkv",
    ffn="channel",
    act="relu2",
    norm="layer",
    position="none",
    embed_norm=True,
    tied=False,
)
IDS = torch.randint(0, 50, (3, 75), generator=torch.Generator().manual_seed(1))


def build(seed: int = 1, **changes) -> Model:
    """A model whose weights all matter: initialised, then shaken, since the outputs of new blocks are zero."""
    model = Model(dataclasses.replace(SMALL, **changes)).eval()
    initialise(model, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=draw)
    return model


def inputs(tokens: int, dtype: torch.dtype = torch.float64, heads: int = 3, width: int = 8) -> list[Tensor]:
    """r, log w, k, v, a, b as the time mix makes them, (2, T, H, D)."""
    draw = torch.Generator().manual_seed(tokens)
    r, w, k, v, removed, rate = (torch.randn(2, tokens, heads, width, generator=draw, dtype=dtype) for _ in range(6))
    removed = F.normalize(removed, dim=-1)
    return [r, -math.exp(-0.5) * (3 * w).sigmoid(), k, v, -removed, removed * rate.sigmoid()]


def naive(r, log_w, k, v, a, b, state, begins=None):
    """The recurrence as the paper writes it, token by token, with its S (values by keys)."""
    found = []
    for t in range(r.shape[1]):
        if begins is not None:
            state = state.masked_fill(begins[:, t, None, None, None], 0)
        transition = torch.diag_embed(log_w[:, t].exp()) + torch.einsum("bhi,bhj->bhij", a[:, t], b[:, t])
        state = state @ transition + torch.einsum("bhi,bhj->bhij", v[:, t], k[:, t])
        found.append(torch.einsum("bhij,bhj->bhi", state, r[:, t]))
    return torch.stack(found, 1), state


@pytest.mark.parametrize("tokens", [1, 5, CHUNK, CHUNK + 1, 2 * CHUNK + 9])
@pytest.mark.parametrize("documents", [False, True])
def test_chunks_equal_the_loop_with_their_gradients(tokens: int, documents: bool):
    draw = torch.Generator().manual_seed(0)
    given = [x.requires_grad_() for x in (*inputs(tokens), torch.randn(2, 3, 8, 8, generator=draw, dtype=torch.float64))]
    begins = torch.rand(2, tokens, generator=draw) < 0.15 if documents else None
    theirs = naive(*given, begins)
    ours = wkv(*given[:-1], given[-1].mT, begins)
    ours = (ours[0], ours[1].mT)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in theirs]
    gradients = [torch.autograd.grad(sum((x * w).sum() for x, w in zip(pair, weights, strict=True)), given) for pair in (ours, theirs)]
    for a, b in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("log_w", [0.0, -1e-3, -0.6065])
def test_fp32_is_enough_where_one_token_repeats_and_where_all_is_forgotten(log_w: float):
    """The worst cases of the triangular system (all of its numbers -1) and of the inverse decays."""
    r, _, k, v, a, _ = (x[:, :1].expand(-1, 96, -1, -1).contiguous() for x in inputs(96, torch.float32))
    given = (r, torch.full_like(r, log_w), k, v, a, -a)
    exact, _ = naive(*(x.double() for x in given), torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(wkv(*given)[0].double(), exact, atol=1e-4, rtol=1e-4)


def test_the_loop_over_chunks_is_a_proper_operator():
    draw = torch.Generator().manual_seed(0)
    across, added = (torch.randn(4, 2, 3, 8, 8, generator=draw, requires_grad=True) for _ in range(2))
    state = torch.randn(2, 3, 8, 8, generator=draw, requires_grad=True)
    torch.library.opcheck(carry, (across, added, state), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def official(model: Model) -> dict[str, Tensor]:
    """The weights under the authors' names and shapes."""
    ours, theirs = model.state_dict(), {}
    for name in ("weight", "bias"):
        theirs |= {f"blocks.0.ln0.{name}": ours[f"embed_norm.{name}"], f"ln_out.{name}": ours[f"stack.norm.{name}"]}
    theirs |= {"emb.weight": ours["embed.weight"], "head.weight": ours["head.weight"]}
    for layer in range(model.cfg.depth):
        here, there = f"stack.blocks.{layer}.", f"blocks.{layer}."
        for name in ("weight", "bias"):
            for a, b in (("mix_norm", "ln1"), ("ffn_norm", "ln2"), ("mix.norm", "att.ln_x")):
                theirs[f"{there}{b}.{name}"] = ours[f"{here}{a}.{name}"]
        for a, b in (("receptance", "receptance"), ("key", "key"), ("value", "value"), ("out", "output")):
            theirs[f"{there}att.{b}.weight"] = ours[f"{here}mix.{a}.weight"]
        for letter in "rwkvag":
            theirs[f"{there}att.x_{letter}"] = ours[f"{here}mix.shift_{letter}"].view(1, 1, -1)
        for a, b in (("decay", "w"), ("rate", "a"), ("blend", "v"), ("gate", "g")):
            for part, number in (("base", "0"), ("down.weight", "1"), ("up.weight", "2")):
                weight = ours.get(f"{here}mix.{a}.{part}")
                if weight is not None:
                    theirs[f"{there}att.{b}{number}"] = weight.view(1, 1, -1) if part == "base" else weight.T.contiguous()
        for a, b in (("removal", "k_k"), ("replacement", "k_a")):
            theirs[f"{there}att.{b}"] = ours[f"{here}mix.{a}"].view(1, 1, -1)
        theirs[f"{there}att.r_k"] = ours[f"{here}mix.bonus"].view(-1, model.cfg.head_width)
        theirs[f"{there}ffn.x_k"] = ours[f"{here}ffn.shift"].view(1, 1, -1)
        theirs[f"{there}ffn.key.weight"], theirs[f"{there}ffn.value.weight"] = ours[f"{here}ffn.up.weight"], ours[f"{here}ffn.down.weight"]
    return theirs


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch):
    """The authors' package, which reads its switches from the environment when it is imported."""
    for name, value in (("RWKV_V7_ON", "1"), ("RWKV_JIT_ON", "0"), ("RWKV_CUDA_ON", "0")):
        monkeypatch.setenv(name, value)
    return importlib.import_module("rwkv.model")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_logits_equal_those_of_the_authors_package(package, tmp_path: Path):
    model = build()
    torch.save(official(model), tmp_path / "model.pth")
    theirs = package.RWKV(str(tmp_path / "model"), "cpu fp32")
    state, found = None, []
    with torch.no_grad():
        for part in (IDS[0, :40].tolist(), *([token] for token in IDS[0, 40:50].tolist())):
            logits, state = theirs.forward(part, state, full_output=True)
            found.append(logits.view(-1, 50))
        expected = model.logits(model(IDS[:1, :50]))[0]
    assert expected.std() > 0.5  # or agreement would say little
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [(75,), (1,) * 75, (40, 1, 1, 33)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_reading_on_equals_reading_at_once(steps, dtype, tolerance):
    model, at, found = build().to(dtype), 0, []
    cache = Cache(model.cfg, 3, 80, dtype=dtype)
    with torch.no_grad():
        for size in steps:
            found.append(model(IDS[:, at : at + size], torch.arange(at, at + size).expand(3, -1), cache=cache))
            at += size
        torch.testing.assert_close(torch.cat(found, 1), model(IDS), atol=tolerance, rtol=tolerance)


def test_padding_leaves_the_state_alone():
    """Rows of 5, 12 and no tokens share a cached call; the next token finds each as if it had been read alone."""
    model, cache = build(), Cache(SMALL, 3, 20)
    lengths, token = [5, 12, 0], torch.tensor([[7], [8], [9]])
    live = torch.arange(12) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        model(IDS[:, :12], cache=cache, live=live)
        found = model(token, torch.tensor(lengths)[:, None], cache=cache)
        for row, length in enumerate(lengths):
            alone = model(torch.cat([IDS[row : row + 1, :length], token[row : row + 1]], 1))[:, -1]
            torch.testing.assert_close(found[row : row + 1, 0], alone, atol=1e-5, rtol=1e-4)


def test_documents_in_one_row_do_not_know_of_each_other():
    model, ends = build(), [3, 4, 40, 60, 75]
    segment = torch.cat([torch.full((end - begin,), i + 1) for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))])
    with torch.no_grad():
        packed = model(IDS, segment=segment.expand(3, -1))
        for begin, end in zip([0, *ends], ends, strict=False):
            torch.testing.assert_close(packed[:, begin:end], model(IDS[:, begin:end]), atol=1e-5, rtol=1e-4)


def test_no_token_sees_the_future():
    model, changed = build().double(), IDS.clone()
    changed[:, 45] = (changed[:, 45] + 1) % 50
    with torch.no_grad():
        a, b = model(IDS), model(changed)
    torch.testing.assert_close(a[:, :45], b[:, :45], atol=1e-12, rtol=1e-12)
    assert (a[:, 45:] - b[:, 45:]).abs().amax((0, 2)).min() > 1e-6  # and each later one knows


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_states_stay_fp32_in_bf16(weights: torch.dtype):
    """Under autocast, and where the weights themselves are bf16."""
    with torch.no_grad():
        exact, model, cache = build()(IDS), build().to(weights), Cache(SMALL, 3, 80)
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
            near = torch.cat([model(IDS[:, :70], cache=cache), *(model(IDS[:, t : t + 1], cache=cache) for t in range(70, 75))], 1)
        assert all(slot["state"].dtype == torch.float32 for slot in cache.slots)
        assert F.cosine_similarity(near.float(), exact, dim=-1).min() > 0.97


@pytest.mark.slow
def test_a_block_compiles_in_one_graph_with_equal_gradients():
    block = build().stack.blocks[1]
    draw = torch.Generator().manual_seed(0)
    x, first = (torch.randn(2, 70, 32, generator=draw, requires_grad=True) for _ in range(2))
    seen = Pass(torch.arange(70)[None], See(), begins=torch.rand(2, 70, generator=draw) < 0.1)
    both = []
    for forward in (block.forward, torch.compile(block.forward, dynamic=False, fullgraph=True, backend="aot_eager")):
        out, *_ = forward(x, seen, None, first)
        both.append(torch.autograd.grad(out.square().mean(), [x, first, *block.parameters()]))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_initialisation_is_the_authors():
    """By hand, for the first of 3 layers: channel 0 is the first of its head (-1) and of all, channel 31 the last (+1) of both."""
    model = Model(SMALL)
    initialise(model, 1)
    mix = model.stack.blocks[0].mix
    assert isinstance(mix, Rwkv) and mix.blend is None
    torch.testing.assert_close(mix.decay.base[[0, 31]], torch.tensor([-6 + 0.5 - 2.5, -6 + 6 + 0.5 + 2.5]))
    torch.testing.assert_close(mix.rate.base[[0, 31]], torch.tensor([-0.19 - 0.3 - 0.2, -0.19 + 0.3 + 0.2]))
    torch.testing.assert_close(mix.shift_w[[0, 16]], torch.tensor([1.0, 1 - 0.5**0.9]))
    torch.testing.assert_close(mix.norm.weight, torch.full((32,), (1 / 3) ** 0.7))
    assert not mix.out.weight.any() and not mix.decay.down.weight.any()
    assert ranks(768) == (64, 64, 32, 128)  # RWKV-7 of 0.1B parameters
    again = Model(SMALL)
    initialise(again, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_it_learns_to_recall_what_followed_a_token():
    """Two pairs (key, value), then the keys again in random order: only memory of each pair predicts the values."""
    model = Model(dataclasses.replace(SMALL, vocab=16, depth=2, heads=2, kv_heads=2, head_width=16))
    initialise(model, 0)
    updates = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(150):
        keys = torch.rand(16, 8, generator=draw).argsort(-1)[:, :2]
        values = torch.randint(8, 16, (16, 2), generator=draw)
        order = torch.rand(16, 2, generator=draw).argsort(-1)
        ids = torch.stack([torch.cat([x, x.gather(1, order)], 1) for x in (keys, values)], -1).flatten(1)
        logits = model.logits(model(ids[:, :-1]))[:, 4::2]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 5::2].flatten())
        loss.backward()
        updates.step()
        updates.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.3 and losses[0] > 2  # chance: ln 8 = 2.08; one of the two values seen: ln 2 = 0.69
