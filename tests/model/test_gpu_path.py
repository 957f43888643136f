"""What a GPU trains with, traced on the CPU: one graph for all blocks, whatever the step's documents, and FlexAttention or SDPA in it."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from bessemer.model import attend, attention
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, Stack, initialise
from bessemer.model.seen import Pass
from bessemer.train import fp8
from bessemer.train.objective import predict

CFG = ModelConfig(vocab=64, width=64, depth=3, heads=4, kv_heads=2, hidden=128, context=256)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches that a GPU takes."""

    def on_a_gpu(query: Tensor, key: Tensor, value: Tensor, see: attend.See) -> Tensor:
        flexible = see.blocks is not None and torch.compiler.is_compiling()
        return (attend.flex if flexible else attend.fused)(query.to(value.dtype), key.to(value.dtype), value, see)

    positioned = Stack._positioned

    def with_blocks(stack: Stack, x: Tensor, seen: Pass, cache: None) -> Pass:
        seen = positioned(stack, x, seen, cache)
        return seen._replace(see=attend.with_blocks(seen.see, x.shape[0], x.shape[1], x.shape[1], x.device))

    monkeypatch.setattr(attention, "attend", on_a_gpu)
    monkeypatch.setattr(Stack, "_positioned", with_blocks)


def rows(step: int, documents: bool) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    ids, place = torch.randint(0, CFG.vocab, (2, 257), generator=draw), torch.arange(256)
    cut = torch.randint(20, 236, (2, 1), generator=draw)
    packed = {"segment": 1 + (place >= cut).long(), "at": place - cut * (place >= cut)} if documents else {}
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], **packed}


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("documents", [False, True])
def test_all_blocks_and_steps_share_one_graph_without_a_break(pretended, documents, eight) -> None:
    torch._dynamo.reset()
    found: list[Counter[str]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        found.append(
            Counter("flex" if "flex" in str(node.target) else "sdpa" if "scaled_dot" in str(node.target) else "" for node in graph.graph.nodes)
        )
        return graph.forward

    model, plain = Model(CFG), Model(CFG)
    initialise(model, 0)
    plain.load_state_dict(model.state_dict())
    for one in (model, plain) if eight else ():
        fp8.swap(one)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[method-assign]
    for step in range(2):
        # FlexAttention has no backward pass on the CPU: tracing needs none.
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(not documents):
            fast, slow = (predict(one, rows(step, documents))["loss"] for one in (model, plain))
        assert (fast - slow).abs().max() < 0.02 * slow.abs().max()
    (graph,) = found
    assert graph["flex"] == documents and graph["sdpa"] == (not documents)
