"""What this machine can do: its device, its measured matrix-product rate, and the precision that is faster here."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Literal

import torch

from bessemer.core import artifact

Precision = Literal["auto", "fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZE = {"cpu": 1024, "cuda": 8192}  # side of the square matrices that are timed


def pick() -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. "auto" takes bf16 only where it was measured to be faster: some CPUs emulate it."""
    if wanted != "auto":
        return DTYPES[wanted]
    return max(DTYPES.values(), key=lambda dtype: matmul_rate(device, dtype))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the denominator of MFU. Measured once per machine and remembered."""
    memory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bessemer" / "device.json"
    key = f"{describe(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, {dtype}"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = _measure(device, dtype)
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            artifact.write_json(memory, known)
        except OSError:
            pass  # a read-only home only means measuring again
    return known[key]


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
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        return "no C++ compiler found"
    import sysconfig

    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "the Python headers are not installed"
    return None


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    side = SIZE[device.type]
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(25):
        began = time.perf_counter()
        _ = first @ second
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    # The fastest quarter: a neighbour on the machine slows a run down but nothing speeds it up.
    return 2 * side**3 / sorted(times)[len(times) // 4]
