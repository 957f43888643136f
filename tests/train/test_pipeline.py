"""Stages of a pipeline, shares of the experts and parts of rows on real processes, against one process; and what cannot be shared out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bessemer.model.model import Model
from bessemer.train.objective import masked_pair, prefer
from bessemer.train.parallel import context, expert, pipeline
from bessemer.train.parallel.mesh import MeshConfig
from tests.train import grids, runs


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every grid in real gloo processes, started once for all of two and once for all of four."""
    folder = tmp_path_factory.mktemp("grids")
    for world, names in ((2, grids.TWO), (4, grids.FOUR)):
        runs.launched(world, "tests.train.grids", str(folder), ",".join(names))
    return folder


@pytest.mark.parametrize("name", [*grids.TWO, *grids.FOUR])
def test_a_grid_is_one_process(name: str, ends: Path):
    """Means of each step, gradient norms, held-out means and weights: in fp64, where losses alone are fp32, and fp32 for experts."""
    grid = (grids.TWO | grids.FOUR)[name]
    found, wanted = torch.load(ends / f"{name}.pt"), grids.train(replace(grid, mesh=MeshConfig()))
    for row, other in zip(found["rows"], wanted["rows"], strict=True):
        assert row == pytest.approx(other, rel=2e-6, abs=2e-6)
    close = 2e-5 if wanted["weights"]["embed.weight"].dtype == torch.float32 else 1e-6
    for key, weight in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][key], weight, atol=close, rtol=close, msg=lambda text, key=key: f"{key}: {text}")


def test_ranks_hold_their_share_only(ends: Path):
    """Counted by hand: a block of the small model has 7,744 numbers, each two norms of 32; the embedding 50 * 32, the last norm 32."""
    block, embed = 2 * 32 + 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48, 50 * 32
    held = lambda name: torch.load(ends / f"{name}.pt")["held"]  # noqa: E731
    assert held("two stages") == [2 * block + embed, 2 * block + 32 + embed]
    assert held("interleaved") == [3 * block + embed, 2 * block + 32 + embed]
    assert held("four stages") == [2 * block + embed, block, block, block + 32 + embed]
    assert sum(held("sharded pipelines")) == sum(held("two stages"))
    every = 2 * 4 * 3 * 32 * 32  # the experts of two blocks
    whole = sum(weight.numel() for weight in grids.model(grids.TWO["balanced experts"]).parameters())
    assert held("balanced experts") == [whole - every // 2] * 2 and held("experts twice") == [whole - every // 2] * 4
    whole = sum(weight.numel() for weight in grids.model(grids.FOUR["four shares of experts"]).parameters())
    assert held("four shares of experts") == [whole - 3 * every // 4] * 4
    assert sum(held("experts and shards")) == whole - every + 2 * every


def test_what_an_objective_asks_is_known_before_it_is_answered():
    batch = {**runs.masked(0), "row_weight": torch.ones(8)}
    args, options = pipeline.asked(masked_pair, runs.RUNS["masked"][0], batch)
    assert all(one is other for one, other in zip(args, (batch["tokens"], batch["at"], batch["segment"]), strict=True))
    assert options == {"types": batch["types"]}
    batch = {**runs.pairs(0), "row_weight": torch.ones(8)}
    args, options = pipeline.asked(prefer(0.1), runs.SMALL, batch)
    assert torch.equal(args[0], torch.cat([batch["chosen_tokens"], batch["rejected_tokens"]])) and not options


@pytest.mark.parametrize("of", [2, 4])
def test_ranks_that_share_rows_share_the_work(of: int):
    """Every place is read once, and the keys that a rank's places see under a causal mask are as many as any other's."""
    shares = [context.places(rank, of, 64, torch.device("cpu")) for rank in range(of)]
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(64))
    assert {int((share + 1).sum()) for share in shares} == {65 * 64 // 2 // of}


REFUSED = {
    "depth must be 3 or more, not 2": (runs.SMALL, 3),
    "shape = encdec has two": (runs.RUNS["copied"][0], 2),
    "mixer = rwkv hands its first block's value": (runs.RUNS["rwkv"][0], 2),
    "ffn = moe reports how all blocks' experts": (runs.RUNS["experts"][0], 2),
    "position = bias has one table": (replace(runs.SMALL, position="bias"), 2),
    "which stage stack.keep belongs to": (replace(runs.SMALL, embed_skip=True), 2),
}


@pytest.mark.parametrize("said", REFUSED)
def test_models_that_no_pipeline_can_pass_on_are_refused(said: str):
    cfg, stages = REFUSED[said]
    with pytest.raises(ValueError, match=said):
        pipeline.check(Model(cfg), stages)


@pytest.mark.parametrize(("name", "said"), [("copied", "not shape = encdec"), ("ahead", "not position = relative"), ("balanced", "not ffn = moe")])
def test_rows_that_cannot_be_cut_are_refused(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        context.check(runs.RUNS[name][0])


def test_experts_that_ranks_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"expert \(3\) must divide the experts of the model; it has 4 experts"):
        expert.check(runs.MOE, 3)
    with pytest.raises(ValueError, match="it has ffn = gated, which has none"):
        expert.check(runs.SMALL, 2)


@pytest.mark.parametrize(("rows", "size", "stages", "said"), [(8, 3, 2, "must divide the 8 rows"), (6, 2, 4, "in rounds of 2, and here are 3")])
def test_rows_that_no_schedule_can_take_are_refused(rows: int, size: int, stages: int, said: str):
    batch = {"row_weight": torch.arange(rows)}
    with pytest.raises(ValueError, match=said):
        pipeline.cut(batch, size, 2, stages)
    assert [part["row_weight"].tolist() for part in pipeline.cut(batch, 0, 2, stages)] == [*torch.arange(rows).view(2, -1).tolist()]


def test_columns_that_context_cannot_cut_are_refused():
    with pytest.raises(ValueError, match="a column 'picked' that is no number for each token"):
        context.part_of(runs.masked(0), 0, 2)
    with pytest.raises(ValueError, match="into 6 chunks of one length, and rows have 32 tokens"):
        context.part_of(runs.tokens(0), 0, 3)


def test_an_objective_that_reads_twice_is_refused():
    model = pipeline.Finished(Model(runs.SMALL), torch.zeros(1, 2, 32))
    assert model().shape == (1, 2, 32) and model.cfg is runs.SMALL
    with pytest.raises(ValueError, match="makes the model read twice"):
        model()
