"""llama.cpp with a model loaded, through each of its two Python packages: ids of a text, and log-probabilities of the next token.

Everything in fp32, and without the kernels that repack weights: they crash on some processors.
"""

import json
from pathlib import Path
from urllib import request

import torch
from torch import Tensor


class Xllamacpp:
    """By the package xllamacpp, which has wheels: llama.cpp's own server, on a port of this machine."""

    def __init__(self, file: Path):
        import xllamacpp as llama

        settings = llama.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel, settings.warmup, settings.no_extra_bufts, settings.verbosity = 256, 1, False, True, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = settings.n_threads_http = 1
        settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = llama.Server(settings)

    def encode(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
        asked = request.Request(self.server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        with request.urlopen(asked) as answer:
            return json.load(answer)["tokens"]

    def logprobs(self, ids: list[int], vocab: int) -> Tensor:
        """(V,). The likeliest token must be text by itself: the server keeps back half a character, and says nothing at an end."""
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0.0, "n_probs": vocab, "cache_prompt": False}
        likely = self.server.handle_completions(asked)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = torch.full((vocab,), -torch.inf)
        found[[one["id"] for one in likely]] = torch.tensor([one["logprob"] for one in likely])
        return found


class LlamaCppPython:
    """By the package llama-cpp-python, which is built from source when it is installed."""

    def __init__(self, file: Path):
        import llama_cpp

        defaults = llama_cpp.llama_model_default_params

        def without_extra_buffers() -> object:
            settings = defaults()
            settings.use_extra_bufts = False
            return settings

        llama_cpp.llama_cpp.llama_model_default_params = without_extra_buffers  # type: ignore[attr-defined]
        try:
            fp32 = llama_cpp.GGML_TYPE_F32
            self.model = llama_cpp.Llama(
                str(file), n_ctx=256, n_threads=1, n_threads_batch=1, type_k=fp32, type_v=fp32, logits_all=True, verbose=False
            )
        finally:
            llama_cpp.llama_cpp.llama_model_default_params = defaults  # type: ignore[attr-defined]

    def encode(self, text: str) -> list[int]:
        return self.model.tokenize(text.encode(), add_bos=True, special=False)

    def logprobs(self, ids: list[int], vocab: int) -> Tensor:
        self.model.reset()
        self.model.eval(ids)
        return torch.tensor(self.model.scores[len(ids) - 1, :vocab]).log_softmax(-1)


ENGINES = {"xllamacpp": Xllamacpp, "llama_cpp": LlamaCppPython}
