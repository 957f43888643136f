"""Open a model of others as a checkpoint: a folder that transformers saved, a GGUF file, a .pth file of RWKV-7's authors; or a training
that is not finished, at its newest checkpoint, on however many processes it runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import processors

from bessemer.core import artifact, config
from bessemer.core.recipe import Step
from bessemer.data import checkpoint, seq2seq
from bessemer.model import gguf, weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.scale import count
from bessemer.tokenizer import files, foreign, special
from bessemer.tokenizer.formats import gguf as gguf_tokenizer
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.resume import checkpoint as resume


@dataclass(frozen=True)
class ConvertConfig:
    pass


def estimate(cfg: ConvertConfig, step: Step) -> dict[str, float]:
    """Bytes on disk. A folder whose config.json describes a model that Bessemer does not build is refused here."""
    [model] = step.inputs["model"]
    if not isinstance(model, Path) or _unfinished(model) or _file_of(model) is not None:
        return {}
    return {"bytes": 4.0 * count.parameters(weights.load_config(model))}


def convert(model: Path, *, out: Path, cfg: ConvertConfig) -> dict[str, float]:
    """Write weights in fp32, configuration, tokenizer and chat template. Of a folder without a config.json, its one .gguf or .pth file."""
    if _unfinished(model):
        return from_training(model, out)
    file = _file_of(model)
    if file is None:
        return from_folder(model, out)
    return from_rwkv7(file, out) if file.suffix == ".pth" else from_gguf(file, out)


def from_gguf(file: Path, out: Path) -> dict[str, float]:
    opened = gguf.read(file)
    try:
        gguf_tokenizer.save(opened.metadata, out)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return gguf.to_checkpoint(opened, out)


def from_rwkv7(file: Path, out: Path) -> dict[str, float]:
    """The tokenizer must lie beside the file, in any form that Bessemer reads; the authors' own list of tokens (.txt) is none of them."""
    model = weights.load_rwkv7(file)
    try:
        words = Tokenizer.load(file.parent)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no tokenizer lies beside it (tokenizer.json), and the file holds none") from None
    checkpoint.check_vocabulary(model.cfg, words, str(file))
    weights.save(model, out, file.parent, [words.end_of_text])
    return _completed(model, file.parent, out)


def from_folder(folder: Path, out: Path) -> dict[str, float]:
    """What transformers saved, of any family that Bessemer builds: checked weight by weight, in one file, with a tokenizer.json."""
    model, words = checkpoint.load(folder, shapes=("decoder", "encoder", "encdec"))
    given = weights.generation_defaults(folder)
    weights.save(model, out, folder, given["eos_token_id"] or [words.end_of_text], given.get("decoder_start_token_id"), weights.labels(folder))
    if given["eos_token_id"]:  # how the model wants to be sampled stays as it is
        artifact.write_json(out / "generation_config.json", given)
    return _completed(model, folder, out)


def from_training(folder: Path, out: Path) -> dict[str, float]:
    """The weights, or where the run keeps one their average, at the newest checkpoint that is whole."""
    path = resume.newest(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet, or none that is whole")
    begun = json.loads((folder / artifact.BEGAN).read_text(encoding="utf-8"))
    [tokenizer] = next(begun["inputs"][name] for name in ("tokenizer", "base", "model") if name in begun["inputs"])
    tensors, extras = resume.read(path)
    model, words = Model(config.parse(ModelConfig, extras["model"], str(path))), Tokenizer.load(Path(tokenizer["path"]))
    found = {name.removeprefix("weights/"): weight for name, weight in tensors.items() if name.startswith("weights/")}
    found |= {name: mean for name in found if (mean := tensors.get(f"extras/average/{name}")) is not None}
    if model.cfg.has_lm and model.cfg.tied:
        found["head.weight"] = found["embed.weight"]
    model.load_state_dict(found)
    start = seq2seq.start_of(words) if model.cfg.shape == "encdec" else None
    ends = words.ends if begun["stage"] in ("sft", "dpo") else [words.end_of_text]
    weights.save(model, out, Path(tokenizer["path"]), ends, start)
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "step": int(path.name.removeprefix("step-"))}


def _completed(model: Model, folder: Path, out: Path) -> dict[str, float]:
    """With a tokenizer.json, where `folder` holds a tokenizer of another form."""
    if not (folder / "tokenizer.json").is_file():
        backend, settings, template = foreign.read(folder)
        # The class of a family would build its tokenizer anew, and not always the same: this one takes tokenizer.json as it is.
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        if model.cfg.shape == "encdec":  # T5 ends what it reads
            end = special.text_of(settings.get("eos_token")) or "</s>"
            backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
                single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, backend.token_to_id(end))]
            )
        files.save(backend, out, settings, template)
    return {"parameters": sum(weight.numel() for weight in model.parameters())}


def _unfinished(path: Path) -> bool:
    """Whether this is a training that goes on, or was stopped: what it goes on from is dropped when it ends."""
    return (path / artifact.BEGAN).is_file() and (path / artifact.RUN / "resume").is_dir()


def _file_of(path: Path) -> Path | None:
    """The one file that `path` is or holds; None where it is a checkpoint."""
    if path.is_file():
        if path.suffix in (".safetensors", ".bin", ".json"):
            raise ValueError(f"{path} is one file of a checkpoint: name its folder")
        return path
    found = [] if (path / "config.json").is_file() else sorted([*path.glob("*.gguf"), *path.glob("*.pth")])
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} files of weights: name one of {', '.join(file.name for file in found)}")
    return found[0] if found else None
