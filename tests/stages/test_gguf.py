"""The stages convert and export, joined by a recipe whose first input is a GGUF file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core import artifact, recipe
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.stages import find
from bessemer.stages.convert import ConvertConfig
from bessemer.stages.export import ExportConfig
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.model import foreign

RECIPE = """
[opened]
stage = "convert"
model = "FILE"

[written]
stage = "export"
checkpoint = "opened"
kind = "F32"
"""


def test_a_file_becomes_a_checkpoint_and_a_file_again(tmp_path: Path):
    made = tmp_path / "made"
    theirs = foreign.save("llama", made)
    file = artifact.make(find("export"), {"checkpoint": made}, ExportConfig("F32"), tmp_path / "first") / "model.gguf"
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("FILE", str(file)))
    folders = recipe.run(recipe.load(tmp_path / "recipe.toml", find), tmp_path / "store")

    ids = torch.tensor([[5, 6, 7, 300]])
    model, words = weights.load(folders["opened"]), Tokenizer.load(folders["opened"])
    with torch.no_grad():
        assert (model.logits(model(ids)) - theirs(ids).logits).abs().max() < 1e-4
    assert words.encode(foreign.TEXT) == Tokenizer.load(made).encode(foreign.TEXT)
    assert weights.generation_defaults(folders["opened"])["eos_token_id"] == [2, 0]
    numbers = json.loads((folders["written"] / "manifest.json").read_text())["numbers"]
    assert numbers["parameters"] == sum(weight.numel() for weight in theirs.parameters())

    again = artifact.make(find("convert"), {"model": folders["written"]}, ConvertConfig(), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folders["opened"] / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (folders["opened"] / "tokenizer.json").read_bytes()


OURS: dict[str, dict[str, Any]] = {
    "llama": {"tied": False},
    "llama3": {"rope_scaling": "llama3", "rope_factor": 4.0},
    "ntk": {"rope_scaling": "ntk", "rope_factor": 4.0},
    "qwen2": {"bias": "qkv"},
    "qwen3": {"qk_norm": True, "head_width": 32},
    "gpt2": {"position": "learned", "norm": "layer", "bias": "all", "ffn": "dense", "act": "gelu_tanh", "kv_heads": 4},
}


@pytest.mark.parametrize("kind", OURS)
def test_our_own_models_come_back_exactly(kind: str, tokenizer_folder: Path, tmp_path: Path):
    shape = {"vocab": 320, "width": 64, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 96, "context": 64}
    model = Model(ModelConfig(**{**shape, **OURS[kind]})).eval()
    initialise(model, 0)
    made = tmp_path / "made"
    made.mkdir()
    weights.save(model, made, tokenizer_folder, [2, 0])
    written = artifact.make(find("export"), {"checkpoint": made}, ExportConfig("F32"), tmp_path / "written")
    back = weights.load(artifact.make(find("convert"), {"model": written}, ConvertConfig(), tmp_path / "back"))
    ids = torch.tensor([[5, 6, 7, 300]])
    with torch.no_grad():
        assert torch.equal(back.logits(back(ids)), model.logits(model(ids)))


def test_what_gguf_cannot_hold_is_refused(tokenizer_folder: Path, tmp_path: Path):
    model = Model(ModelConfig(vocab=320, width=64, depth=1, hidden=96, context=64, ffn="dense", act="relu2"))
    (tmp_path / "made").mkdir()
    weights.save(model, tmp_path / "made", tokenizer_folder, [0])
    with pytest.raises(ValueError, match=re.escape("model_type 'bessemer' is none that can be written as GGUF (llama, mistral, qwen2")):
        artifact.make(find("export"), {"checkpoint": tmp_path / "made"}, ExportConfig(), tmp_path / "out")


def test_a_checkpoint_of_transformers_is_converted(tmp_path: Path):
    theirs = foreign.save("qwen3", tmp_path / "made")
    folder = artifact.make(find("convert"), {"model": tmp_path / "made"}, ConvertConfig(), tmp_path / "out")
    model, ids = weights.load(folder), torch.tensor([[5, 6, 7, 300]])
    with torch.no_grad():
        assert (model.logits(model(ids)) - theirs(ids).logits).abs().max() < 1e-4
    assert (folder / "tokenizer.json").is_file()


def test_a_folder_of_several_files_asks_for_one(tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="holds 2 files of weights: name one of a.gguf, b.gguf"):
        artifact.make(find("convert"), {"model": tmp_path}, ConvertConfig(), tmp_path / "out")
