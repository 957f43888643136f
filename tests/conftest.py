import os

# Before anything imports a Hugging Face library: no test may wait for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
# Models of the tests are tiny: one thread is faster, and a busy machine does not stall at the end of every parallel region.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import torch

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.tokenizer import bpe
from bessemer.tokenizer.tokenizer import Tokenizer

TEXT = "json.dumps(obj, *, skipkeys=False)\n    Serialize obj to a JSON formatted str.\nThe quick brown fox jumps over the lazy dog 1234 times. "


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train([TEXT * 5, "Grüße, 世界! 🎉 naïve\n" * 3], 320), folder)
    return folder


@pytest.fixture(scope="session")
def words(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture
def small() -> Model:
    """A decoder that has learnt nothing, with weights large enough that its scores differ."""
    torch.manual_seed(0)
    model = Model(ModelConfig(vocab=320, width=32, depth=2, heads=4, kv_heads=2, head_width=8, hidden=48, context=64)).eval()
    initialise(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(6)
    return model
