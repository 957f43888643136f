"""One GPU, in one command: is it right, how fast does it train, and where does a step's time go.

    python benchmarks/gpu.py [--minutes 14] [--only machine,correct,train,variants,profile,kernels] [--device cuda] [--out benchmarks/results]

Needs torch (2.11 or later), numpy, safetensors, tokenizers and this checkout; nothing is installed or fetched. Sections run in the order
of their worth, each item by itself: what fails stands in the tables with its error, and what no longer fits into the time as left out. The
numbers go to OUT/gpu-DEVICE-DATE.json after every section, beside those of other sections that ran that day: where a machine is to be had
for ten minutes only, run `--only machine,correct,train --minutes 9` and then the rest.

machine   rate of large matrix products by precision (the denominator of MFU), and of copies in memory
correct   models, losses, gradients, attention, optimizers and generation against the CPU in fp32
train     tokens/s and MFU of `fit`, as a user gets it: 124M, 350M and 1B decoders in bf16 and fp8, compiled or not
variants  the same of packed documents, Muon, recomputing, fp32, and of changes that are not in `fit` yet
profile   the time of a 1B step by kind of kernel
kernels   ways of attention and of the cross-entropy, forward and backward

MFU is by the exact count of model FLOPs (bessemer/scale/count.py; attention counts every pair), over the measured and over the data sheet's rate.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import bare  # isort: skip  # before anything that may be missing here
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bessemer.core import device
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.scale import count
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Batch, predict

Row = dict[str, Any]
# Dense bf16 TFLOP/s of data sheets, by a part of the device's name; the first that fits.
SHEET = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "GH200": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362, "L4": 121}
NEVER = 10**9


@dataclass(frozen=True)
class Size:
    """A decoder, the rows of a step, and the micro-batches to try, the most promising first."""

    model: ModelConfig
    rows: int
    micro: tuple[int, ...]


def decoder(width: int, depth: int, heads: int, kv_heads: int, hidden: int, context: int, vocab: int = 50304) -> ModelConfig:
    return ModelConfig(vocab=vocab, width=width, depth=depth, heads=heads, kv_heads=kv_heads, hidden=hidden, context=context)


FULL = {
    "124M": Size(decoder(768, 12, 12, 12, 2048, 1024), 256, (64, 32, 16)),
    "350M": Size(decoder(1024, 24, 16, 16, 2816, 1024), 128, (32, 16, 8)),
    "1B": Size(decoder(2048, 20, 16, 8, 5632, 2048), 64, (8, 16, 4)),
}
TINY = {name: Size(decoder(32, 2, 2, 1, 64, 32, vocab=64), 4, (2, 4)) for name in FULL}


@dataclass
class Run:
    """What a section knows and where its results go."""

    where: torch.device
    tiny: bool
    compile: bool
    deadline: float
    best: int = 4  # the 1B decoder's micro-batch

    @property
    def sizes(self) -> dict[str, Size]:
        return TINY if self.tiny else FULL

    @property
    def eight(self) -> bool:
        """Whether the device has fp8."""
        return self.where.type == "cuda" and torch.cuda.get_device_capability(self.where) >= device.FP8_SINCE

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def rows(self, items: dict[str, Callable[[], Row]], needs: float = 0.0) -> Iterator[Row]:
        """The result of each item, printed as it comes. One that fails gives its error, one without `needs` seconds left says so."""
        for name, item in items.items():
            row: Row = {"name": name}
            try:
                row |= item() if self.left() > needs else {"left out": "no time"}
            except Exception as error:  # every kind: a kernel that does not build must not cost the numbers of the others
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if "failed" in row or "tokens/s" in row:  # a model, whose parts refer to each other
                _free()
            print(line(row), flush=True)
            yield row

    def sheet(self, dtype: torch.dtype) -> float | None:
        """FLOP/s of the data sheet, where it is known."""
        rate = next((rate for name, rate in SHEET.items() if name in device.describe(self.where)), None)
        return None if rate is None or dtype == torch.float32 else rate * 1e12 * (2 if dtype.itemsize == 1 else 1)


def machine(run: Run) -> list[Row]:
    def product(dtype: torch.dtype) -> Row:
        rate, sheet = device.matmul_rate(run.where, dtype), run.sheet(dtype)
        return {"TFLOP/s": rate / 1e12, **({"of sheet": rate / sheet} if sheet else {})}

    def copy() -> Row:
        """Counting bytes read and bytes written."""
        source = torch.empty(1 << (20 if run.tiny else 31), dtype=torch.uint8, device=run.where)
        target = torch.empty_like(source)
        return {"GB/s": 2 * len(source) / milliseconds(run, lambda: target.copy_(source)) / 1e6}

    names = ("bf16", "fp16", "fp32", "fp8") if run.where.type == "cuda" else ("bf16", "fp32")
    return list(run.rows({**{name: lambda name=name: product(device.DTYPES[name]) for name in names}, "copy": copy}))


def correct(run: Run) -> list[Row]:
    import gpu_correct

    return list(run.rows(gpu_correct.checks(run)))


def profile(run: Run) -> list[Row]:
    import gpu_kernels

    return gpu_kernels.profile(run)


def kernels(run: Run) -> list[Row]:
    import gpu_kernels

    return list(run.rows(gpu_kernels.items(run), needs=5.0))


def train(run: Run) -> list[Row]:
    """The 1B decoder's best micro-batch is found first, since everything else about it is measured with that one."""
    micro = run.sizes["1B"].micro
    rows = list(run.rows({f"1B bf16, {one} rows": partial(speed, run, "1B", one) for one in micro}, needs=30.0))
    run.best = max((row for row in rows if "tokens/s" in row), key=lambda row: row["tokens/s"], default={"rows": micro[-1]})["rows"]
    items = {"124M bf16": partial(largest, run, "124M"), "350M bf16": partial(largest, run, "350M")}
    if run.eight:
        items["1B fp8"] = partial(speed, run, "1B", run.best, precision="fp8")
    for size in ("1B", "350M", "124M"):
        items[f"{size} bf16, not compiled"] = partial(largest, run, size, compile=False)
    return rows + list(run.rows(items, needs=20.0))


def variants(run: Run) -> list[Row]:
    big = partial(speed, run, "1B", run.best)
    items = {
        "1B bf16, bf16 between blocks": partial(big, narrow=True),
        "1B bf16, cuDNN attention": partial(big, cudnn=True),
        "1B bf16, both of these": partial(big, narrow=True, cudnn=True),
        "1B bf16, packed documents": partial(big, documents=True),
        "1B bf16, Muon": partial(big, optimizer="muon"),
        "1B bf16, blocks recomputed": partial(big, recompute=True),
        "124M fp32": partial(largest, run, "124M", precision="fp32"),
    }
    if run.eight:
        items |= {f"{size} fp8": partial(largest, run, size, precision="fp8") for size in ("350M", "124M")}
    return list(run.rows(items, needs=20.0))


def largest(run: Run, size: str, **settings: Any) -> Row:
    """`speed` at the largest micro-batch that fits into memory."""
    for micro in sorted(run.sizes[size].micro, reverse=True):
        try:
            return speed(run, size, micro, **settings)
        except torch.cuda.OutOfMemoryError:
            pass
        _free()
    raise MemoryError(f"not even {micro} rows fit")


def speed(run: Run, size: str, micro: int, **settings: Any) -> Row:
    """What `fit` reports of a few steps, after one that compiles and a second. `settings` as of `training`."""
    began = time.monotonic()
    with training(run, size, micro, 2, **settings) as (cfg, reports):
        next(reports)
        ready, found = time.monotonic() - began, list(islice(reports, 2))
    report = max(found, key=lambda row: row["tokens_per_second"])
    dtype = device.DTYPES[cfg.precision]
    sheet = run.sheet(dtype)
    return {
        "rows": micro,
        "tokens/s": report["tokens_per_second"],
        "ms a step": 1000 * cfg.batch * run.sizes[size].model.context / report["tokens_per_second"],
        "TFLOP/s": report["tflops"],
        "MFU": report["mfu"],
        **({"MFU of sheet": report["tflops"] * 1e12 / sheet} if sheet else {}),
        "memory GB": report["memory_gb"],
        "loss": report["loss"],
        "ready after s": ready,
    }


@contextmanager
def training(
    run: Run, size: str, micro: int, every: int, documents: bool = False, narrow: bool = False, cudnn: bool = False, **settings: Any
) -> Iterator[tuple[FitConfig, Iterator[Row]]]:
    """A run of `fit` that reports after each `every` steps and never ends by itself. `settings`: of FitConfig.

    documents: packed rows. narrow: bf16 instead of fp32 between the blocks. cudnn: attention by cuDNN where PyTorch would take FlashAttention.
    """
    of = run.sizes[size]
    torch._dynamo.reset()  # a function is compiled for eight kinds of input at most
    if run.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.where)
    model = built(of.model, run.where)
    if narrow:
        model.embed.register_forward_hook(lambda part, given, out: out.bfloat16())
    given: Row = {"precision": "bf16", "compile": run.compile, "warmup": 0.0, "lr": 1e-4} | settings
    cfg = FitConfig(steps=NEVER, batch=of.rows, micro_batch=micro, log_every=every, eval_every=NEVER, save_every=NEVER, **given)
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    attention = sdpa_kernel(order, set_priority=True) if cudnn else nullcontext()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(device, "pick", lambda: run.where), attention:
        reports = fit(model, predict, source(of, documents), cfg, Path(folder), label=f"{size} {micro}")
        try:
            yield cfg, reports
        finally:
            reports.close()


def built(cfg: ModelConfig, where: torch.device) -> Model:
    """A model with random weights, drawn on the device: on the CPU a billion of them would take a minute."""
    with where:
        model = Model(cfg)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() >= 2:
            nn.init.normal_(weight, std=0.02)
    return model


def source(of: Size, documents: bool) -> Callable[[int], Batch]:
    """Rows of random tokens; `documents`: of several, about 500 tokens each, that do not see each other."""
    rows, context = of.rows, of.model.context

    def batch(step: int) -> Batch:
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(0, of.model.vocab, (rows, context + 1), generator=draw)
        found: dict[str, Tensor] = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous(), "token_weight": torch.ones(rows, context)}
        if documents:
            begins = torch.rand(rows, context, generator=draw) < 1 / 500
            begins[:, 0] = True
            place = torch.arange(context).expand(rows, -1)
            found |= {"segment": begins.long().cumsum(1), "at": place - torch.where(begins, place, 0).cummax(1).values}
        return found

    return batch


def milliseconds(run: Run, once: Callable[[], Any], most: int = 30, seconds: float = 0.5) -> float:
    """The median time of a call, after three that warm up."""
    for _ in range(3):
        once()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < most and time.perf_counter() - began < seconds):
        times.append(1000 * device._time(run.where, once))
    return statistics.median(times)


def about(run: Run) -> Row:
    """The machine, the versions, the day."""
    found: Row = {"device": device.describe(run.where), "date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    for name in ("bessemer", "numpy", "triton", "safetensors", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "stood in for": bare.absent, "compile": device.compiles() or "works"}
    if run.where.type == "cuda":
        of = torch.cuda.get_device_properties(run.where)
        found |= {"capability": f"{of.major}.{of.minor}", "memory GB": of.total_memory / 1e9, "processors": of.multi_processor_count}
        found |= {"cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    found["parameters"] = {name: count.parameters(size.model) for name, size in run.sizes.items()}
    return found


def _driver() -> str | None:
    file = Path("/proc/driver/nvidia/version")
    return file.read_text(encoding="utf-8").splitlines()[0] if file.is_file() else None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def line(row: Row) -> str:
    numbers = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items() if name != "name")
    return f"  {row['name']:<34} {'  '.join(numbers)}"


SECTIONS: dict[str, Callable[[Run], list[Row]]] = {
    "machine": machine,
    "correct": correct,
    "train": train,
    "variants": variants,
    "profile": profile,
    "kernels": kernels,
}


def main() -> int:
    """0 where every check of `correct` held (or none ran), else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, in this order")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        parser.error(f"--only {','.join(unknown)}: sections are {', '.join(SECTIONS)}")
    where = torch.device(args.device, 0) if args.device == "cuda" else torch.device(args.device)
    run = Run(where, args.sizes == "tiny", not args.eager, time.monotonic() + 60 * args.minutes)
    file = args.out / f"gpu-{'-'.join(device.describe(where).split())}-{datetime.now(UTC):%Y-%m-%d}.json"
    results = _begun(file, about(run))
    run.best = results["best"] or run.sizes["1B"].micro[0]
    print(json.dumps(results["about"], indent=1))
    for name in chosen:
        began = time.monotonic()
        print(f"\n{name}", flush=True)
        try:
            results["sections"][name] = SECTIONS[name](run)
        except Exception as error:
            results["sections"][name] = [{"name": name, "failed": f"{type(error).__name__}: {error}"}]
            print(line(results["sections"][name][0]))
        _free()
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
        results["best"] = run.best if "train" in results["sections"] else None
        args.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
    checked = [row for row in results["sections"].get("correct", []) if "left out" not in row]
    wrong = [row["name"] for row in checked if not row.get("right")]
    print(f"\n{len(checked) - len(wrong)} of {len(checked)} checks right{': wrong are ' + ', '.join(wrong) if wrong else ''}\n{file}")
    return 1 if wrong else 0


def _begun(file: Path, now: Row) -> Row:
    """What other sections found earlier that day, with the same versions; else nothing yet."""
    new: Row = {"about": now, "best": None, "sections": {}}
    if not file.is_file():
        return new
    before = json.loads(file.read_text(encoding="utf-8"))
    same = all(before["about"].get(name) == now.get(name) for name in now if name != "date")
    return {**new, **before, "about": now} if same else new


if __name__ == "__main__":
    sys.modules["gpu"] = sys.modules["__main__"]  # the sections' files import this one
    sys.exit(main())
