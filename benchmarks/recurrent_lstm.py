"""Training LSTM blocks beside attention blocks of as many parameters, interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/recurrent_lstm.py [rounds]

Four blocks of width 256 on 8 rows of 512 tokens, in which a document begins every 200 tokens or so, alone and with embedding, head and
loss. Forward and backward, compiled as in training: milliseconds of CPU time, median and range over the rounds.
"""

import statistics
import sys
import time

import torch

from bessemer.core import device
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train import loss

ROWS, LENGTH, WARM = 8, 512, 2
CONFIGS = {
    "attention": ModelConfig(vocab=4096, width=256, depth=4, context=LENGTH),
    # The recurrence has 8 square matrices where grouped-query attention has 3: the feed-forward gives them up.
    "LSTM": ModelConfig(vocab=4096, width=256, depth=4, context=LENGTH, mixer="lstm", position="none", hidden=276),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def prepare(cfg: ModelConfig) -> Model:
    """A model whose blocks are compiled as the training loop compiles them."""
    model = Model(cfg)
    initialise(model, 0)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
    return model


def measure(model: Model, batch: dict[str, torch.Tensor], dtype: torch.dtype, whole: bool) -> float:
    """Milliseconds of CPU time that a forward and a backward pass take, with the head and the loss or without."""
    began = time.process_time()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        hidden = model(**batch)
        cost = loss.cross_entropy(model.logits(hidden), batch["ids"]) if whole else hidden.float().square()
    cost.mean().backward()
    return 1e3 * (time.process_time() - began)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    torch.manual_seed(0)
    begins = torch.rand(ROWS, LENGTH) < 1 / 200
    begins[:, 0] = True
    place = torch.arange(LENGTH).expand(ROWS, -1)
    ids = torch.randint(0, 4096, (ROWS, LENGTH))
    batch = {"ids": ids, "at": place - (place * begins).cummax(1).values, "segment": begins.long().cumsum(1)}
    models = {name: prepare(cfg) for name, cfg in CONFIGS.items()}
    sizes = {name: sum(weight.numel() for weight in model.blocks[0].parameters()) for name, model in models.items()}
    print(f"{device.describe(torch.device('cpu'))}, {torch.get_num_threads()} threads, torch {torch.__version__}, parameters of a block: {sizes}\n")
    print("| what | precision | attention, ms | LSTM, ms | tokens per second, LSTM to attention |\n|---|---|---|---|---|")
    for whole in (False, True):
        for precision, dtype in DTYPES.items():
            found = [[measure(model, batch, dtype, whole) for model in models.values()] for _ in range(WARM + rounds)][WARM:]
            columns = [*zip(*found, strict=True), [attention / lstm for attention, lstm in found]]
            cells = [f"{statistics.median(column):.4g} [{min(column):.4g}, {max(column):.4g}]" for column in columns]
            print(f"| {'whole model' if whole else 'blocks'} | {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
