"""The folder of a tokenizer: tokenizer.json  tokenizer_config.json  chat_template.jinja, as `transformers` lays them out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from bessemer.core import artifact
from bessemer.tokenizer import chat, special

NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save(backend: Backend, folder: Path, settings: Mapping[str, Any] | None = None, template: str | None = chat.TEMPLATE) -> None:
    """Write the files that `transformers.AutoTokenizer` and `Tokenizer.load` read.

    `settings` are those of tokenizer_config.json; left out, each special token gets the role that `special.settings` gives its name.
    """
    if settings is None:
        added = backend.get_added_tokens_decoder()
        names = [added[i].content for i in sorted(added) if added[i].special]
        settings = special.settings(names)
        frame(backend, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with artifact.atomic(folder / NAMES[0]) as temporary:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
    with artifact.atomic(folder / NAMES[1]) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if template is not None:
        with artifact.atomic(folder / NAMES[2]) as temporary:
            temporary.write_text(template, encoding="utf-8")


def frame(backend: Backend, settings: Mapping[str, Any]) -> None:
    """With cls and sep, `transformers` puts a text, or two, between them as BERT expects: [CLS] a [SEP] b [SEP]."""
    cls, sep = settings.get("cls_token"), settings.get("sep_token")
    if cls and sep:
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
        )


def settings_of(folder: Path) -> dict[str, Any]:
    """What the files beside a tokenizer say about its special tokens: tokenizer_config.json before special_tokens_map.json before config.json."""
    found: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                given = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{folder / name} is not JSON: {error}") from None
            kept = {key: value for key, value in given.items() if name != "config.json" or key == "eos_token_id"}
            found |= {key: value for key, value in kept.items() if value is not None or key not in found}
    return found


def template_of(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template of a folder: a file of its own, or, in older checkpoints, a field of the tokenizer's settings."""
    file, given = folder / NAMES[2], settings.get("chat_template")
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(given, list):  # several, by name
        given = next((one.get("template") for one in given if one.get("name") == "default"), None)
    return given if isinstance(given, str) else None
