"""The table of benchmarks/training.py from turns whose numbers are worked by hand; and its programs' protocol."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training

    return training


def test_table_is_worked_per_round(training, capsys):
    # A step is 4,096 tokens. Ours takes 2 and 4 CPU seconds for one, the peer 4 and 4: ours is faster by 2 in one round, by 1 in the other.
    flops = training.count.training_flops(training.LLAMA, training.CONTEXT)
    product = 2.0 * training.SIDE**3 * training.PRODUCTS

    def ran(name, *seconds):
        return training.Contestant(name, None, {}, [{"cpu": s, "wall": 2 * s} for s in seconds])  # type: ignore[arg-type]

    # The products' rate is set so that a step's FLOPs would take 1 second: MFU is 1 / seconds, overhead seconds - 1.
    second = product / (4096 * flops)
    found = [ran("bf16 products", second, second), ran("fp32 products", second, second), ran("ours, AdamW", 2, 4), ran("peer", 4, 4)]
    training.report(found, argparse.Namespace(steps=1, threads=1, rounds=2))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[2] == ["ours, AdamW", "1,536 [1,024-2,048]", "768 [512-1,024]", "38% [25%-50%]", "2.00 [1.00-3.00]", "1.00 [1.00-1.00]"]
    assert rows[3] == ["peer", "1,024 [1,024-1,024]", "512 [512-512]", "25% [25%-25%]", "3.00 [3.00-3.00]", "1.50 [1.00-2.00]"]


def test_a_contestant_works_only_when_it_is_its_turn(tmp_path):
    program = "import training_peers as t\nfor n, _ in enumerate(t.turns(2, who='me')): print('step', n, flush=True)"
    run = subprocess.run([sys.executable, "-c", program], input="\n\n", capture_output=True, text=True, cwd=ROOT / "benchmarks", check=True)
    kinds = ["".join(json.loads(line)) if line.startswith("{") else "step" for line in run.stdout.splitlines()]
    assert kinds == ["step"] * 4 + ["torchwho"] + (["step"] * 2 + ["cpuwall"]) * 2


def test_a_contestant_that_dies_is_named(training):
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with pytest.raises(SystemExit, match="nobody ended with status 3"):
        training.Contestant("nobody", process).said()
