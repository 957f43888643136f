"""Products in eight bits against the same in fp32, and against the same roundings done by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bessemer.core import device
from bessemer.model.model import Model, initialise
from bessemer.train import fp8
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import predict
from tests.train import runs

# Half a unit in the last place, relative to the value: 3 and 2 bits behind the leading one.
ROUNDING = {fp8.VALUE: 2.0**-4, fp8.SLOPE: 2.0**-3}


def away(found: Tensor, wanted: Tensor) -> float:
    """Relative distance of two tensors."""
    return ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()


def both_ways(layer: nn.Module, x: Tensor, slope: Tensor, autocast: bool = True) -> tuple[Tensor, ...]:
    """What a layer makes of x, and the gradients of x and of its parameters."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = layer(x)
    return (out.detach(), *torch.autograd.grad(out, (x, *layer.parameters()), slope.to(out.dtype)))


def linear(width: int = 64, out: int = 48, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(width, out, bias=bias)
    layer.__class__ = fp8.Linear8
    return layer


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("size", [1e-20, 1.0, 3e4])
def test_rounding_keeps_every_entry_near_the_largest_to_the_formats_bits(dtype, size) -> None:
    x = size * torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 5 * size
    rounded, scale = fp8.quantise(x, dtype)
    found = rounded.float() * scale
    assert rounded.dtype == dtype and scale.dtype == torch.float32 and scale.shape == ()
    assert rounded.float().abs().max() == torch.finfo(dtype).max
    # Smaller entries than this fall among the format's subnormals, whose distance is fixed.
    near = x.abs() > torch.finfo(dtype).tiny * scale
    assert ((found - x).abs() <= ROUNDING[dtype] * x.abs() * (1 + 1e-6))[near].all()
    assert near.float().mean() > 0.95


def test_rounding_by_hand() -> None:
    """The largest is 7, so the scale is 7 / 448 = 1 / 64. 1.05 * 64 = 67.2 lies between 64 and 72, which are 8 apart: 64, or 1."""
    rounded, scale = fp8.quantise(torch.tensor([7.0, 1.05, -1.1, 0.0]), torch.float8_e4m3fn)
    assert scale.item() == 1 / 64
    assert rounded.float().tolist() == [448.0, 64.0, -72.0, 0.0]


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden() -> None:
    zeros, scale = fp8.quantise(torch.zeros(4), fp8.VALUE)
    assert torch.isfinite(scale) and (zeros.float() == 0).all()
    layer = linear()
    for wrong in (torch.nan, torch.inf):
        x = torch.randn(16, 64)
        x[3, 5] = wrong
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.isfinite(layer(x)).all()


def test_product_and_gradients_are_those_of_the_rounded_factors() -> None:
    layer, x, slope = linear(), torch.randn(32, 64).bfloat16(), torch.randn(32, 48).bfloat16()
    (value, s), (weight, w), (steep, g) = fp8.quantise(x, fp8.VALUE), fp8.quantise(layer.weight, fp8.VALUE), fp8.quantise(slope, fp8.SLOPE)
    value, weight, steep = value.float() * s, weight.float() * w, steep.float() * g
    out, to_x, to_weight = both_ways(layer, x, slope)
    assert away(out, value @ weight.T) < 4e-3  # bf16's rounding of the result
    assert away(to_x, steep @ weight) < 4e-3
    assert away(to_weight, steep.T @ value) < 1e-5
    assert to_weight.dtype == torch.float32


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_close_to_fp32_at_any_scale(bias, scale) -> None:
    layer, x, slope = linear(bias=bias), scale * torch.randn(4, 16, 64), torch.randn(4, 16, 48) / scale
    found = both_ways(layer, x, slope)
    layer.__class__ = nn.Linear
    wanted = both_ways(layer, x, slope, autocast=False)
    # Uniform errors of up to half a unit in each of two factors: about 0.6 * 2^-4 * sqrt(2) of e4m3 alone, more where e5m2 takes part.
    for one, other, limit in zip(found, wanted, [0.06, 0.09, 0.09, 0.005], strict=False):
        assert 1e-4 < away(one, other) < limit


def test_plain_without_autocast_and_where_rows_do_not_fit() -> None:
    layer = linear(bias=True)
    plain = nn.Linear(64, 48)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(32, 64)
    assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(layer(x), plain(x))
        for rows in (17, 0):
            assert torch.equal(layer(x[:rows]), plain(x[:rows]))


def test_compiles_without_a_break_there_and_back() -> None:
    layer, x, slope = linear(bias=True), torch.randn(2, 16, 64), torch.randn(2, 16, 48)
    wanted = both_ways(layer, x, slope)
    layer.forward = torch.compile(layer.forward, fullgraph=True, dynamic=False, backend="aot_eager")
    for one, other in zip(both_ways(layer, x, slope), wanted, strict=True):
        assert away(one, other) < 1e-2


WIDE = replace(runs.SMALL, head_width=16, hidden=64)


@pytest.mark.parametrize(
    ("cfg", "maps"),
    [
        (WIDE, 2 * (4 + 3)),
        (replace(WIDE, hidden=40), 2 * 4),  # 40 is no multiple of 16
        (replace(WIDE, ffn="moe", hidden=32, shared_experts=1, shared_gate=True), 2 * (4 + 3)),  # routers, gates and experts stay
        (replace(WIDE, shape="encoder", bias="all", ffn="dense"), 2 * (4 + 2)),  # transform and head stay
    ],
)
def test_swaps_the_maps_of_blocks_and_back(cfg, maps) -> None:
    model = Model(cfg)
    before = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    classes = [type(part) for part in model.modules()]
    assert fp8.swap(model) == maps
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == before
    assert type(model.head) is nn.Linear
    assert fp8.swap(model) == 0
    fp8.restore(model)
    assert [type(part) for part in model.modules()] == classes


def test_a_model_learns_as_it_does_in_bf16() -> None:
    """Thirty steps of AdamW: both go from about log 50 to a fraction of it, on paths that stay close."""
    losses: dict[bool, list[float]] = {}
    for eight in (False, True):
        model = Model(WIDE)
        initialise(model, 0)
        assert not eight or fp8.swap(model) == 14
        update = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses[eight] = []
        for step in range(30):
            batch = runs.tokens(step)
            with torch.autocast("cpu", torch.bfloat16):
                loss = predict(model, batch)["loss"].mean()
            loss.backward()
            update.step()
            update.zero_grad()
            losses[eight].append(loss.item())
    assert losses[True] != losses[False]
    assert losses[True][-1] < 0.5 * losses[True][0]
    assert abs(losses[True][-1] - losses[False][-1]) < 0.1 * losses[False][0]


def test_fit_trains_the_blocks_in_fp8_and_gives_the_model_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that is let through the check of what a device has. Sampled from in between, the model is an ordinary one."""
    monkeypatch.setattr(device, "_check_fp8", lambda where: None)
    losses, products = {}, []
    right = fp8._product
    monkeypatch.setattr(fp8, "_product", lambda *given, **more: products.append(1) or right(*given, **more))
    for precision in ("fp32", "fp8"):
        model = Model(WIDE)
        initialise(model, 0)
        cfg = FitConfig(steps=4, batch=8, precision=precision, compile=False, log_every=1, lr=1e-2, optimizer="muon")
        losses[precision] = []
        for row in fit(model, predict, runs.tokens, cfg, tmp_path / precision):
            losses[precision].append(row["loss"])
            before = len(products)
            model(runs.tokens(0)["tokens"])
            assert len(products) == before
        assert not any(isinstance(part, fp8.Linear8) for part in model.modules())
    assert len(products) == 4 * 3 * 14
    assert losses["fp8"] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["fp8"] != losses["fp32"]
