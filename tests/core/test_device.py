"""The precision policy, against machines that are pretended: what is chosen, what is refused, what is said and what is remembered."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bessemer.core import device

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FP32, BF16, FP16, FP8 = torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has measured nothing and said nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device._warn.cache_clear()
    yield
    device._warn.cache_clear()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(device.log, "say", lines.append)
    return lines


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[torch.dtype, int], float], capability: tuple[int, int] | None = None) -> list:
    """A machine on which a layer's pass takes so long, by precision and width. Returns what was measured, in order."""
    measured = []

    def layer(where: torch.device, dtype: torch.dtype, width: int) -> tuple[torch.dtype, int]:
        return dtype, width

    def timed(where: torch.device, runs: list, clock: object = None) -> list[float]:
        measured.append(runs)
        return [seconds[run] for run in runs]

    monkeypatch.setattr(device, "_layer", layer)
    monkeypatch.setattr(device, "_seconds", timed)
    if capability:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda where=None: "Pretended GPU")
    return measured


def times(half: torch.dtype, ratios: tuple[float, float, float], widths: tuple[int, ...] = device.WIDTHS["cpu"]) -> dict:
    """One second in fp32, and so many seconds in `half`, by width."""
    return {(FP32, width): 1.0 for width in widths} | {(half, width): ratio for width, ratio in zip(widths, ratios, strict=True)}


def test_auto_takes_what_is_faster_at_the_models_width(monkeypatch) -> None:
    """A machine that wins in bf16 at 1024 and loses below, as emulation with a fast product would."""
    pretend(monkeypatch, times(BF16, (1.5, 0.97, 0.4)))
    assert device.precision("auto", CPU, 48) == FP32
    assert device.precision("auto", CPU, 64) == FP32
    assert device.precision("auto", CPU, 256) == FP32  # 3 % faster is not worth the rounding
    assert device.precision("auto", CPU, 257) == BF16
    assert device.precision("auto", CPU, 5000) == BF16


def test_measured_once_and_remembered(monkeypatch, tmp_path) -> None:
    measured = pretend(monkeypatch, times(BF16, (0.5, 0.5, 0.5)))
    assert [device.precision("auto", CPU, 300) for _ in range(3)] == [BF16] * 3
    assert device.precision("bf16", CPU, 1000) == BF16
    assert len(measured) == len(device.WIDTHS["cpu"])
    (key,) = json.loads((tmp_path / "bessemer" / "device.json").read_text())
    for part in (device.describe(CPU), torch.__version__, f"{torch.get_num_threads()} threads", "layer 1024", "bfloat16"):
        assert part in key
    torch_before = torch.__version__
    monkeypatch.setattr(torch, "__version__", "of another day")
    device.precision("auto", CPU, 300)
    assert len(measured) > len(device.WIDTHS["cpu"]) and torch_before != torch.__version__


def test_a_read_only_or_broken_memory_only_means_measuring_again(monkeypatch, tmp_path) -> None:
    measured = pretend(monkeypatch, times(BF16, (0.5, 0.5, 0.5)))
    (tmp_path / "bessemer").write_text("no folder")
    assert device.precision("auto", CPU, 64) == device.precision("auto", CPU, 64) == BF16
    assert len(measured) == 2
    (tmp_path / "bessemer").unlink()
    (tmp_path / "bessemer").mkdir()
    (tmp_path / "bessemer" / "device.json").write_text('{"cut o')
    assert device.precision("auto", CPU, 64) == BF16


def test_what_is_hopeless_in_a_small_layer_is_not_tried_in_a_large_one(monkeypatch, said) -> None:
    """fp16 on a processor without it takes a minute for what fp32 does in one second."""
    measured = pretend(monkeypatch, times(FP16, (10.0, 60.0, 60.0)))
    assert device.precision("fp16", CPU, 1024) == FP16
    assert len(measured) == 1
    assert len(said) == 1


def test_a_slower_precision_is_used_as_asked_and_said_once_with_both_rates(monkeypatch, said) -> None:
    pretend(monkeypatch, times(BF16, (2.0, 2.0, 2.0)))
    assert device.precision("bf16", CPU, 64) == device.precision("bf16", CPU, 64) == BF16
    flops = 6 * device.ROWS["cpu"] * 4 * 64**2 / 1e9
    (line,) = said
    assert "bf16" in line and f"{flops / 2:.1f} GFLOP/s against {flops:.1f} GFLOP/s" in line
    assert device.precision("fp32", CPU, 64) == FP32
    assert len(said) == 1


def test_nothing_is_said_where_the_choice_is_faster(monkeypatch, said) -> None:
    pretend(monkeypatch, times(BF16, (0.5, 0.5, 0.5)))
    device.precision("bf16", CPU)
    assert not said


@pytest.mark.parametrize(("capability", "half"), [((6, 1), FP16), ((7, 5), FP16), ((8, 0), BF16), ((9, 0), BF16)])
def test_gpus_without_bf16_get_fp16_where_it_is_faster(monkeypatch, capability, half) -> None:
    fast, slow = (times(half, (ratio,) * 3, device.WIDTHS["cuda"]) for ratio in (0.2, 40.0))
    pretend(monkeypatch, fast, capability)
    assert device.precision("auto", GPU, 512) == half
    pretend(monkeypatch, slow, capability)
    assert device.precision("auto", GPU, 4096) == FP32


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), None])
def test_fp8_is_refused_in_one_line_where_the_device_has_none(monkeypatch, capability) -> None:
    pretend(monkeypatch, {}, capability)
    with pytest.raises(ValueError, match=r"^precision = fp8 needs .* 8\.9 or more .*: choose auto, fp32, bf16 or fp16$") as error:
        device.precision("fp8", GPU if capability else CPU)
    assert "\n" not in str(error.value)
    assert device.describe(GPU if capability else CPU) in str(error.value)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_fp8_where_there_is_some_and_bf16_beside_it(monkeypatch, capability) -> None:
    pretend(monkeypatch, {}, capability)
    assert device.precision("fp8", GPU) == FP8
    assert device.autocast(FP8) == BF16
    assert [device.autocast(dtype) for dtype in (FP32, BF16, FP16)] == [FP32, BF16, FP16]


def test_every_choice_has_a_dtype() -> None:
    assert {"auto", *device.DTYPES} == set(device.Precision.__args__)  # type: ignore[attr-defined]


def test_a_real_layer_makes_fp32_gradients_in_either_precision(monkeypatch) -> None:
    """What is timed is what training does: the products in 16 bits, weights and their gradients in fp32."""
    kept = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda out, *rest: kept.append((out.dtype, [one.dtype for one in grad(out, *rest)])))
    for dtype in (FP32, BF16):
        device._layer(CPU, dtype, 8)()
    assert kept == [(FP32, [FP32, FP32]), (BF16, [FP32, FP32])]


def test_a_layer_on_a_cpu_is_timed_by_one_core(monkeypatch) -> None:
    """Not by the clock on the wall, which on a busy machine says how long threads wait for each other."""
    found = []

    def timed(where: torch.device, runs: list, clock: object = None) -> list[float]:
        found.append((torch.get_num_threads(), clock))
        return [2.0, 1.0]

    monkeypatch.setattr(device, "_seconds", timed)
    before = torch.get_num_threads()
    assert device.precision("auto", CPU, 64) == BF16
    assert found == [(1, device.time.process_time)] and torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [FP32, BF16, FP8])
def test_a_measured_rate_is_a_products_flops_over_its_least_time(monkeypatch, dtype) -> None:
    monkeypatch.setitem(device.SIZE, "cpu", 64)
    # When measuring begins; three runs of 0.5, 0.25 and 1 s; then time is up.
    readings = iter([0.0, 10.0, 10.5, 20.0, 20.25, 30.0, 31.0, 1e9])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(readings))
    assert device.matmul_rate(CPU, dtype) == 2 * 64**3 / 0.25
