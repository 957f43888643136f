"""A contestant of training.py, in the peers' own environment: it trains the same decoder on the same rows, a few steps each time it is told to.

    python training_peers.py CONTESTANT ROWS.npy STEPS

Prints a line of JSON about itself when it is warm; then, for every line it reads, {"cpu": seconds, "wall": seconds} of STEPS steps.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

# 12.4 M parameters besides the embedding and the head, which are not tied; 101 MFLOP a token.
WIDTH, DEPTH, HEADS, HIDDEN, VOCAB, CONTEXT, BATCH = 384, 7, 6, 1024, 8192, 256, 16
WARM = 4  # steps: compilation, first touch of the optimizer's state


def nanochat(path: str, steps: int, compiled: bool) -> None:
    """As its scripts/base_train.py: its GPT, its Muon and AdamW, both compiled. NANOCHAT_DTYPE says in which precision."""
    from nanochat.common import COMPUTE_DTYPE
    from nanochat.gpt import GPT, GPTConfig

    sizes = {"n_layer": DEPTH, "n_head": HEADS, "n_kv_head": HEADS, "n_embd": WIDTH}
    with torch.device("meta"):
        model = GPT(GPTConfig(sequence_len=CONTEXT, vocab_size=VOCAB, window_pattern="L", **sizes))  # its CPU run asks for L
    model.to_empty(device="cpu")
    model.init_weights()
    optimizer = model.setup_optimizer()
    forward = torch.compile(model, dynamic=False) if compiled else model
    for ids, targets in in_turns(path, steps, computes_in=str(COMPUTE_DTYPE)):
        forward(ids, targets).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)


def litgpt(path: str, steps: int, precision: str) -> None:
    """As its pretrain.py: Fabric, its GPT compiled, its loss in chunks, gradients clipped; AdamW fused, which it keeps for GPUs."""
    import lightning
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    fabric = lightning.Fabric(devices=1, accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    sizes = {"block_size": CONTEXT, "padded_vocab_size": VOCAB, "n_layer": DEPTH, "n_head": HEADS, "n_embd": WIDTH, "intermediate_size": HIDDEN}
    llama = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "rotary_percentage": 1.0, "parallel_residual": False, "bias": False}
    with fabric.init_module():
        model = GPT(Config(**sizes, **llama))
    model = fabric.setup(torch.compile(model))
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), fused=True))
    for ids, targets in in_turns(path, steps, litgpt=version("litgpt"), lightning=lightning.__version__):
        fabric.backward(chunked_cross_entropy(model(ids), targets))
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()


def trainer(path: str, steps: int, attention: str, **settings: bool) -> None:
    """transformers' Trainer with a Llama, AdamW fused and gradients clipped as it does unasked."""
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    sizes = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "vocab_size": VOCAB}
    model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=CONTEXT, tie_word_embeddings=False, attn_implementation=attention))
    turn = turns(steps, transformers=transformers.__version__, accelerate=version("accelerate"))

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            next(turn)

    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "output_dir": str(Path(path).parent)}
    given = TrainingArguments(per_device_train_batch_size=BATCH, max_steps=10**6, learning_rate=1e-3, use_cpu=True, **quiet, **settings)
    rows = [{"input_ids": row[:-1], "labels": row[:-1]} for row in torch.from_numpy(np.load(path)).long()]  # the model shifts labels itself
    Trainer(model, given, train_dataset=rows, callbacks=[Turns()]).train()


def in_turns(path: str, steps: int, **about: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets (B, T), round and round the rows (N, T + 1) of a file, when it is our turn."""
    parts = torch.from_numpy(np.load(path)).long().split(BATCH)
    for step, _ in enumerate(turns(steps, **about)):
        part = parts[step % len(parts)]
        yield part[:, :-1].contiguous(), part[:, 1:].contiguous()


def turns(steps: int, **about: str) -> Iterator[None]:
    """Yields before each step: WARM of them at once, then `steps` for every line that is read."""
    for _ in range(WARM):
        yield
    say(torch=torch.__version__, **about)
    while sys.stdin.readline():
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            yield
        say(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
    os._exit(0)  # a Trainer would go on


def say(**numbers: object) -> None:
    print(json.dumps(numbers), flush=True)


CONTESTANTS: dict[str, Callable[[str, int], None]] = {
    "nanochat, fp32 (its default), compiled": lambda path, steps: nanochat(path, steps, True),
    "nanochat, bf16, compiled": lambda path, steps: nanochat(path, steps, True),
    "nanochat, bf16, eager": lambda path, steps: nanochat(path, steps, False),
    "litgpt, bf16-mixed, compiled": lambda path, steps: litgpt(path, steps, "bf16-mixed"),
    "litgpt, bf16-true, compiled": lambda path, steps: litgpt(path, steps, "bf16-true"),
    "litgpt, fp32, compiled": lambda path, steps: litgpt(path, steps, "32-true"),
    "Trainer, bf16, eager": lambda path, steps: trainer(path, steps, "sdpa", bf16=True),
    "Trainer, bf16, compiled": lambda path, steps: trainer(path, steps, "sdpa", bf16=True, torch_compile=True),
    "Trainer, bf16, compiled, plain attention": lambda path, steps: trainer(path, steps, "eager", bf16=True, torch_compile=True),
    "Trainer, fp32, compiled": lambda path, steps: trainer(path, steps, "sdpa", torch_compile=True),
}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    CONTESTANTS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
