"""What this machine can do: its device, its measured matrix-product rate, and the precision that is faster here."""

import functools
import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from bessemer.core import artifact, log

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
SIZE = {"cpu": 1024, "cuda": 8192}  # side of the square matrices that are timed
ROWS = {"cpu": 512, "cuda": 8192}  # tokens through the layer that is timed
WIDTHS = {"cpu": (64, 256, 1024), "cuda": (256, 1024, 4096)}  # of that layer
BF16_SINCE, FP8_SINCE = (8, 0), (8, 9)  # compute capability
MARGIN = 1.05  # how much faster a lower precision must be to be worth its rounding
MOST, LIMIT = 50, 2.0  # runs, and seconds, that a measurement takes at most, beyond the first three
HOPELESS = 3.0  # so many times slower in a small layer, it is not tried in a larger one: that could take minutes


def pick() -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def precision(wanted: Precision, device: torch.device, width: int = 256) -> torch.dtype:
    """The dtype of matrix products in a model of this width. "auto" takes 16 bits (bf16, on GPUs without it fp16) only where a linear layer was
    measured to train faster in them: some CPUs emulate them. Asked for by name, a slower one is said so once.

    fp8 is float8_e4m3fn: `train.fp8` makes the blocks' products so, and `autocast` says what everything else runs in. ValueError where the
    device has none.
    """
    if wanted == "fp8":
        _check_fp8(device)
    if wanted in ("fp32", "fp8"):
        return DTYPES[wanted]
    half = _half(device) if wanted == "auto" else DTYPES[wanted]
    full, fast = layer_rates(device, half, width)
    if wanted == "auto":
        return half if fast >= MARGIN * full else torch.float32
    if fast < full:
        _warn(f"precision = {wanted} is slower than fp32 here: {_flops(fast)} against {_flops(full)} in a linear layer; auto takes the faster one")
    return half


def autocast(dtype: torch.dtype) -> torch.dtype:
    """What runs beside matrix products in `dtype`: fp8 is for those alone."""
    return torch.bfloat16 if dtype.itemsize == 1 else dtype


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the denominator of MFU. Measured once per machine and remembered."""
    return _remembered(f"{_machine(device)}, {dtype}", lambda: _measure(device, dtype))


def layer_rates(device: torch.device, half: torch.dtype, width: int) -> tuple[float, float]:
    """FLOP/s of a linear layer's forward and backward pass in fp32 and in `half`, with what training adds to its products: fp32 weights
    that are cast in each pass, and their fp32 gradients. For a layer about as wide as the model, since what wins with large matrices may
    lose with small ones. Measured once per machine and remembered."""
    widths = WIDTHS[device.type]
    wide = next((one for one in widths if one >= width), widths[-1])
    full, fast = _remembered(f"{_machine(device)}, a core's layer {wide}, {half}", lambda: _measure_layer(device, half, wide))
    return full, fast


def describe(device: torch.device) -> str:
    """The device's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def compiles() -> str | None:
    """None where torch.compile can work here, else the reason why not."""
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if torch.cuda.get_device_capability() < (7, 0):
            return "Triton needs a GPU of compute capability 7.0 or more"
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):  # for the few lines of C that launch its kernels
            return "no C compiler found"
    else:
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception:
            return "no C++ compiler found"
    import sysconfig

    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "the Python headers are not installed"
    return None


def _half(device: torch.device) -> torch.dtype:
    """The 16 bits that this device was built for."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < BF16_SINCE
    return torch.float16 if old else torch.bfloat16


def _check_fp8(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.version.hip is None else (0, 0)
    if capability < FP8_SINCE:
        least = ".".join(map(str, FP8_SINCE))
        raise ValueError(
            f"precision = fp8 needs an NVIDIA GPU of compute capability {least} or more (Ada, Hopper), not {describe(device)}: "
            "choose auto, fp32, bf16 or fp16"
        )


@functools.cache
def _warn(message: str) -> None:
    """Once is enough."""
    log.say(message)


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.1f} GFLOP/s"


def _machine(device: torch.device) -> str:
    return f"{describe(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _remembered(key: str, measure: Callable[[], Any]) -> Any:
    """What `measure` found when it was first asked for `key` on this machine."""
    memory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bessemer" / "device.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = measure()
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            artifact.write_json(memory, known)
        except OSError:
            pass  # a read-only home only means measuring again
    return known[key]


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    side = SIZE[device.type]
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    if dtype.itemsize == 1:
        one = torch.ones((), device=device)
        (seconds,) = _seconds(device, [lambda: torch._scaled_mm(first, second.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)])
    else:
        (seconds,) = _seconds(device, [lambda: first @ second])
    return 2 * side**3 / seconds


def _measure_layer(device: torch.device, half: torch.dtype, width: int) -> tuple[float, float]:
    """On a CPU the time of one core: on a busy machine several threads wait for each other, and what they say would be remembered."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        for wide in WIDTHS[device.type]:
            full, fast = _seconds(device, [_layer(device, dtype, wide) for dtype in (torch.float32, half)], time.process_time)
            if wide == width or fast > HOPELESS * full:
                break
    finally:
        torch.set_num_threads(threads)
    flops = 6 * ROWS[device.type] * 4 * wide**2
    return flops / full, flops / fast


def _layer(device: torch.device, dtype: torch.dtype, width: int) -> Callable[[], None]:
    """One pass through a linear map from `width` to four times that, there and back."""
    draw = {"device": device, "requires_grad": True}
    x, weight = torch.randn(ROWS[device.type], width, **draw), torch.randn(4 * width, width, **draw)  # type: ignore[call-overload]
    slope = torch.randn(ROWS[device.type], 4 * width, device=device).to(dtype)

    def run() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = F.linear(x, weight)
        torch.autograd.grad(out, (x, weight), slope)

    return run


def _seconds(device: torch.device, runs: Sequence[Callable[[], Any]], clock: Callable[[], float] | None = None) -> list[float]:
    """The least time of each, taken in turns: at least three, then until MOST or LIMIT seconds are reached. A neighbour on the machine
    slows a run down, nothing speeds it up; and a peak that was measured too low would flatter every MFU.

    clock: of a CPU, if not that on the wall.
    """
    times: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    while len(times[0]) < 3 or (len(times[0]) < MOST and time.perf_counter() - began < LIMIT):
        for run, found in zip(runs, times, strict=True):
            found.append(_time(device, run, clock or time.perf_counter))
    return [min(found) for found in times]


def _time(device: torch.device, run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    if device.type == "cpu":
        began = clock()
        run()
        return clock() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # the GPU is busy while the next is queued, so that no wait for the host is timed
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000
