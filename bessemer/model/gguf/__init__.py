"""GGUF, llama.cpp's file of weights: opened as a checkpoint folder, and written from one.

A file is read and written tensor by tensor, so memory holds the largest of them, not the model.
"""

import json
import math
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from safetensors import SafetensorError, safe_open

from bessemer.core import artifact
from bessemer.model.gguf import layout as layouts
from bessemer.model.gguf.layout import LAYOUTS, Array, Layout, reorder
from bessemer.model.weights import files_of

Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]

VERSIONS = (2, 3)
READABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
NUMBERS = {  # the format's types of numbers as numpy's
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
LARGEST_F16 = 65504.0
NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # constants that older checkpoints keep beside their weights


@dataclass(frozen=True)
class Tensor:
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: Array  # bytes, in rows

    def array(self) -> Array:
        """The numbers, in fp32."""
        return gguf.dequantize(self.data, self.kind)


@dataclass(frozen=True)
class Gguf:
    """An open file: its keys, and its tensors, which stay on disk until they are asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: Path) -> Gguf:
    """Open a file, memory-mapped. ValueError where it is no GGUF, is cut off, or holds an architecture or quantisation unknown here."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder, not a GGUF file" if path.exists() else f"{path} does not exist")
    with path.open("rb") as opened:
        magic = opened.read(8)
        if len(magic) < 8 or magic[:4] != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it begins with {magic!r}")
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    version = int.from_bytes(magic[4:], "little")
    if version not in VERSIONS:
        raise ValueError(f"{path}: version {version} of GGUF is not supported ({' and '.join(map(str, VERSIONS))} are, little-endian)")
    try:
        metadata, tensors = _contents(Cursor(data, len(magic)))
    except (EOFError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: the file is damaged or cut off ({error})") from None
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in LAYOUTS:
        raise ValueError(f"{path}: architecture {architecture!r} is not supported ({', '.join(LAYOUTS)})")
    for name, tensor in tensors.items():
        if tensor.kind.name not in READABLE:
            raise ValueError(f"{path}: {name} is kept as {tensor.kind.name}, which cannot be read: take a file of F16, Q8_0 or a K type")
    return Gguf(path, metadata, tensors)


@dataclass
class Cursor:
    """Reads what comes next in a file. EOFError behind its end, so that a wrong length is not counted to."""

    data: mmap.mmap
    at: int

    def take(self, kind: Any, count: int = 1) -> Array:
        """The next `count` numbers of a numpy type."""
        size = np.dtype(kind).itemsize * count
        if self.at + size > len(self.data):
            raise EOFError(f"it has {len(self.data):,} bytes, its contents go on to {self.at + size:,}")
        self.at += size
        return np.frombuffer(self.data, kind, count, self.at - size)

    def number(self, kind: Any) -> int:
        return int(self.take(kind)[0])

    def text(self) -> str:
        return self.take(np.uint8, self.number("<u8")).tobytes().decode()

    def value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            return self.take(NUMBERS[kind]).tolist()[0]
        kind, count = GGUFValueType(self.number("<u4")), self.number("<u8")
        return self.take(NUMBERS[kind], count).tolist() if kind in NUMBERS else [self.value(kind) for _ in range(count)]


def _contents(file: Cursor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Keys and tensors of a file whose cursor stands behind its version."""
    tensors, keys = file.number("<u8"), file.number("<u8")
    metadata = {file.text(): file.value(GGUFValueType(file.number("<u4"))) for _ in range(keys)}
    described = {}
    for _ in range(tensors):
        name, dimensions = file.text(), file.number("<u4")
        shape = tuple(reversed(file.take("<u8", dimensions).tolist()))
        described[name] = (shape, GGMLQuantizationType(file.number("<u4")), file.number("<u8"))
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment = {alignment!r}")
    begin = -(-file.at // alignment) * alignment
    found = {}
    for name, (shape, kind, offset) in described.items():
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        found[name] = Tensor(kind, shape, Cursor(file.data, begin + offset).take(np.uint8, math.prod(stored)).reshape(stored))
    return metadata, found


def to_checkpoint(file: Gguf, folder: Path) -> dict[str, float]:
    """Write config.json, generation_config.json and model.safetensors (fp32) into `folder`. ValueError where tensors are missing or too many."""
    layout = LAYOUTS[file.metadata["general.architecture"]]
    factors = file.tensors["rope_freqs.weight"].array() if "rope_freqs.weight" in file.tensors else None
    try:
        config = layouts.config_of(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()}, factors)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    names = layouts.names(layout, config)
    _compare(str(file.path), layout.model_type, names.keys(), file.tensors.keys() - {"rope_freqs.weight"})
    shapes = {there: _turned(file.tensors[name].shape, layout, name) for name, there in names.items()}
    arrays = (reorder(file.tensors[name].array(), name, layout, config, to="checkpoint") for name in names)
    with artifact.atomic(folder / "model.safetensors") as temporary:
        _write_safetensors(temporary, shapes, arrays)
    ids = _special(file.metadata)
    artifact.write_json(folder / "config.json", config | ids)
    artifact.write_json(folder / "generation_config.json", ids | {"do_sample": False})
    return {"parameters": sum(map(math.prod, shapes.values())), "bytes": file.path.stat().st_size}


def write(folder: Path, file: Path, kind: Kind, tokenizer: Mapping[str, Any]) -> dict[str, float]:
    """Write the weights of a checkpoint folder as a GGUF file. `tokenizer`: the tokenizer's keys, from bessemer.tokenizer.formats.gguf.

    Matrices become `kind`, vectors stay in fp32; as llama.cpp does, embedding and head are not taken below Q8_0, and F16 stands in
    where blocks of 32 do not fit a row. ValueError where GGUF has no place for the architecture, or F16 none for a weight.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        metadata, factors = layouts.metadata_of(config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    layout = LAYOUTS[metadata["general.architecture"]]
    config = layouts.filled(config, layout)
    names, weights = layouts.names(layout, config), _open_safetensors(folder)
    unused = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    _compare(str(folder), layout.model_type, names.values(), weights.keys() - unused)
    shapes = {name: _turned(tuple(weights[there].get_shape()), layout, name) for name, there in names.items()}
    kinds = {name: _kind_of(name, shape, GGMLQuantizationType[kind]) for name, shape in shapes.items()}
    file_type = LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"]
    metadata |= {"general.name": artifact.name_of(folder), "general.file_type": int(file_type), "general.quantization_version": 2}

    with artifact.atomic(file) as temporary:
        writer = GGUFWriter(temporary, metadata.pop("general.architecture"))
        for key, value in {**metadata, **tokenizer}.items():
            writer.add_key_value(key, value, _type_of(value))
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for name, shape in shapes.items():
            stored = gguf.quant_shape_to_byte_shape(shape, kinds[name])
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for name, there in names.items():
            data = reorder(weights[there][:].float().numpy(), name, layout, config, to="file")
            if kinds[name] == GGMLQuantizationType.F16 and np.abs(data).max() > LARGEST_F16:
                raise ValueError(f"{folder}: {there} has values above {LARGEST_F16:,.0f}, which F16 cannot hold: export BF16 or F32")
            writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(data), kinds[name]))
        writer.close()
    parameters, size = sum(map(math.prod, shapes.values())), file.stat().st_size
    return {"parameters": parameters, "bytes": size, "bits_per_weight": round(8 * size / parameters, 3)}


def _compare(place: str, what: str, expected: Iterable[str], found: Iterable[str]) -> None:
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or surplus:
        raise ValueError(f"{place}: weights are not those of a {what}: missing {missing[:3]}, unknown {surplus[:3]}")


def _turned(shape: tuple[int, ...], layout: Layout, name: str) -> tuple[int, ...]:
    return shape[::-1] if layouts.is_transposed(layout, name) else shape


def _special(given: Mapping[str, Any]) -> dict[str, Any]:
    """Ids at which a text begins and ends. The end of a turn, where the file knows one besides the text's, comes first."""
    end = [given[key] for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eos_token_id") if key in given]
    found = {"bos_token_id": given.get("tokenizer.ggml.bos_token_id"), "pad_token_id": given.get("tokenizer.ggml.padding_token_id")}
    return {"eos_token_id": list(dict.fromkeys(end)), **{name: i for name, i in found.items() if i is not None}}


def _kind_of(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1 or name == "position_embd.weight":
        return GGMLQuantizationType.F32
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        return GGMLQuantizationType.F16
    # Below a byte for a weight the embedding and the head lose most, and they are where a token's meaning is looked up.
    return GGMLQuantizationType.Q8_0 if size < block and name in ("token_embd.weight", "output.weight") else kind


def _type_of(value: Any) -> GGUFValueType:
    for kind, stored in ((bool, GGUFValueType.BOOL), (int, GGUFValueType.UINT32), (list, GGUFValueType.ARRAY)):
        if isinstance(value, kind):
            return stored
    return GGUFValueType.get_type(value)


def _open_safetensors(folder: Path) -> dict[str, Any]:
    """Every weight of a checkpoint by name, on disk until it is sliced. GPT-2's own checkpoints leave out the word `transformer`."""
    found: dict[str, Any] = {}
    files = files_of(folder, "model.safetensors")
    if not files:
        raise FileNotFoundError(f"{folder} holds no model.safetensors, nor an index of several")
    for file in files:
        try:
            opened = safe_open(file, "pt")  # numpy knows no bfloat16
        except SafetensorError as error:
            raise ValueError(f"{file}: weights cannot be read, the file is damaged or cut off ({error})") from None
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            bare = name.partition(".")[0] in ("wte", "wpe", "h", "ln_f")
            if not name.endswith(NOT_WEIGHTS):
                found[f"transformer.{name}" if bare else name] = opened.get_slice(name)
    return found


def _write_safetensors(file: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[Array]) -> None:
    """The format's own layout, since its library wants all tensors at once: length of the header, header, bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for shape, array in zip(shapes.values(), arrays, strict=True):
            assert array.shape == shape
            opened.write(np.ascontiguousarray(array, dtype="<f4").data)
