"""Write a checkpoint for others: a GGUF file, which llama.cpp and what is built on it open, or a .pth file of RWKV-7's authors."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bessemer.model import gguf, weights
from bessemer.tokenizer.formats import gguf as gguf_tokenizer


@dataclass(frozen=True)
class ExportConfig:
    kind: gguf.Kind = "Q8_0"  # of a GGUF's matrices: F32, F16 and BF16 as they are, Q8_0 to Q4_0 in blocks of 32 with a scale each
    format: Literal["gguf", "rwkv7"] = "gguf"


def export(checkpoint: Path, *, out: Path, cfg: ExportConfig) -> dict[str, float]:
    """Write model.gguf: weights, tokenizer, chat template; or model.pth, in fp32, with the tokenizer's files beside it."""
    model = weights.load_config(checkpoint)  # says what is wrong with a folder that is no checkpoint
    if cfg.format == "rwkv7":
        return to_rwkv7(checkpoint, out, model.context)
    tokenizer = gguf_tokenizer.metadata(checkpoint, model.vocab, weights.generation_defaults(checkpoint)["eos_token_id"])
    return gguf.write(checkpoint, out / "model.gguf", cfg.kind, tokenizer)


def to_rwkv7(checkpoint: Path, out: Path, context: int) -> dict[str, float]:
    model, file = weights.load(checkpoint), out / f"model-ctx{context}.pth"
    weights.save_rwkv7(model, file)
    for name in weights.TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "bytes": file.stat().st_size}
