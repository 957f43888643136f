"""Checkpoints: a folder in Hugging Face's layout. The only file of model/ that touches disk.

model.safetensors  config.json  generation_config.json  tokenizer.json  tokenizer_config.json  chat_template.jinja
"""

import dataclasses
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bessemer.core import artifact, launch
from bessemer.core import config as settings
from bessemer.model import layouts
from bessemer.model.config import ModelConfig
from bessemer.model.layouts import rwkv7
from bessemer.model.model import Model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model")


def save(model: Model, folder: Path, tokenizer: Path, end: Sequence[int], start: int | None = None, labels: Sequence[str] = ()) -> None:
    """Write a complete checkpoint: weights in fp32, config, the tokenizer's files, the ids that end what it writes, for an encdec the id
    that starts it, for a classifier the names of its classes.

    Blocks that predict further ahead have done their work in training and are left out. Of several ranks rank 0 alone has all weights,
    and writes.
    """
    if launch.rank() > 0:
        return
    cfg = dataclasses.replace(model.cfg, ahead=0)
    family, given = layouts.of(cfg)
    state = {name: weight.detach().float() for name, weight in model.state_dict().items() if not name.startswith("further.")}
    theirs = {name: _alone(weight) for name, weight in family.theirs(state, cfg).items()}
    with artifact.atomic(folder / "model.safetensors") as temporary:
        save_file(theirs, temporary, metadata={"format": "pt"})
    if labels:
        given |= {"id2label": {str(i): name for i, name in enumerate(labels)}, "label2id": {name: i for i, name in enumerate(labels)}}
    writing: dict[str, Any] = {"eos_token_id": list(end)} if cfg.shape != "encoder" else {}
    if start is not None:
        writing |= {"decoder_start_token_id": start, "pad_token_id": start}
    artifact.write_json(folder / "config.json", {**given, **writing, "dtype": "float32"})
    if writing:
        artifact.write_json(folder / "generation_config.json", {"pad_token_id": end[-1], "do_sample": False, **writing})
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():  # older checkpoints keep their template inside tokenizer_config.json
            shutil.copyfile(tokenizer / name, folder / name)


def load(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Open a checkpoint, ready to decode. Errors name the folder and what is wrong with it.

    Files stay on disk until a weight is used, and fp32 on the CPU is never copied, so memory holds one copy.
    """
    cfg = load_config(path)
    return _built(path, cfg, layouts.named(_given(path)["model_type"]).ours(_weights(path), cfg), device, dtype)


def load_rwkv7(file: Path) -> Model:
    """Open a .pth file of RWKV-7's authors. Its name says for which context it was trained (ctx4096), else 4096 is taken."""
    state, named = _pickled(file), re.search(r"ctx(\d+)", file.name)
    try:
        cfg = rwkv7.read(state, int(named[1]) if named else 4096)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file}: {error}") from None
    return _built(file, cfg, rwkv7.ours(state, cfg), "cpu", torch.float32)


def save_rwkv7(model: Model, file: Path) -> None:
    """Write the weights as RWKV-7's authors do. ValueError where their files have no place for one of the model's choices."""
    if not rwkv7.holds(model.cfg):
        raise ValueError(
            "only RWKV-7 as its authors build it fits their files: mixer = rwkv, ffn = channel, LayerNorm, a norm after the embedding, tied = false"
        )
    state = {name: weight.detach() for name, weight in model.state_dict().items()}
    with artifact.atomic(file) as temporary:
        torch.save({name: _alone(weight) for name, weight in rwkv7.theirs(state, model.cfg).items()}, temporary)


def load_config(path: Path) -> ModelConfig:
    """The architecture of a checkpoint. ValueError where it is one that Bessemer does not build."""
    given = _given(path)
    try:
        if method := given.get("quantization_config"):
            raise ValueError(f"quantization_config ({dict(method).get('quant_method')}) is not supported: take the model before it was quantised")
        cfg = layouts.named(given.get("model_type")).read(given)
        return settings.parse(ModelConfig, settings.plain(cfg), "config.json")  # types and ranges
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path}: config.json does not say {error}") from None


def labels(path: Path) -> list[str]:
    """The names of a classifying checkpoint's classes, in order; empty where it has none."""
    names = _given(path).get("id2label") or {}
    return [names[number] for number in sorted(names, key=int)]


def generation_defaults(path: Path) -> dict[str, Any]:
    """How the checkpoint wants to be sampled, and `eos_token_id`, always a list."""
    file = path / "generation_config.json"
    given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    start = _given(path).get("decoder_start_token_id")  # older checkpoints of T5 say it there
    if start is not None:
        given.setdefault("decoder_start_token_id", start)
    end = given.get("eos_token_id")
    return {**given, "eos_token_id": end if isinstance(end, list) else [] if end is None else [end]}


def _given(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it holds no config.json")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file} holds no fields")
    return given


def _built(place: Path, cfg: ModelConfig, state: dict[str, Tensor], device: torch.device | str, dtype: torch.dtype) -> Model:
    """A model of these weights, which are taken out of `state` one by one. ValueError where they are not those of `cfg`."""
    with torch.device("meta"):
        model = Model(cfg)
    wanted = model.state_dict()
    missing, surplus = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or surplus:
        raise ValueError(f"{place}: weights do not fit the configuration: missing {sorted(missing)[:3]}, unknown {sorted(surplus)[:3]}")
    for name, weight in wanted.items():
        if weight.shape != state[name].shape:
            raise ValueError(f"{place}: {name} is {tuple(state[name].shape)}, the configuration asks for {tuple(weight.shape)}")
    tied = cfg.has_lm and cfg.tied
    if tied:
        state.pop("head.weight")
    model.load_state_dict({name: state.pop(name).to(device, dtype).contiguous() for name in list(state)}, assign=True, strict=False)
    if tied:
        model.head.weight = model.embed.weight
    return model.requires_grad_().eval()


def _alone(weight: Tensor) -> Tensor:
    """The weight with memory of its own: files cannot hold views."""
    weight = weight.contiguous()
    return weight if weight.untyped_storage().nbytes() == weight.nbytes else weight.clone()


def _weights(path: Path) -> dict[str, Tensor]:
    """Every weight of a folder: of model.safetensors, of the shards that an index names, or of the pickles of older checkpoints."""
    files = files_of(path, "model.safetensors") or files_of(path, "pytorch_model.bin")
    if not files:
        raise FileNotFoundError(f"{path} holds no weights: no model.safetensors, no pytorch_model.bin, nor an index of several")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _pickled(file) if file.suffix == ".bin" else _safe(file)
    return found


def files_of(path: Path, whole: str) -> list[Path]:
    """The file `whole` of a folder, or the shards that its index names; none where there is neither.

    What else lies in the folder is not read: some publish the same weights a second time, under other names.
    """
    index = path / f"{whole}.index.json"
    if (path / whole).is_file():
        return [path / whole]
    if not index.is_file():
        return []
    files = [path / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    if missing := next((file for file in files if not file.is_file()), None):
        raise FileNotFoundError(f"{path} lacks {missing.name}, which {index.name} names")
    return files


def _safe(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: weights cannot be read, the file is damaged or cut off ({error})") from None


def _pickled(file: Path) -> dict[str, Tensor]:
    """Tensors by name. Nothing else is unpickled, so a stranger's file runs no code."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{file}: weights cannot be read, the file is damaged, cut off, or holds more than weights ({said})") from None
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise ValueError(f"{file}: it holds more than weights by name")
    return found
