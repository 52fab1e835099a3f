"""Ask llama.cpp for tokens; it runs in the engines' environment, without this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import xllamacpp


def serve(model: str) -> xllamacpp.Server:
    """llama.cpp's server on a GGUF file, up until the process ends, in fp32 all the way."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 256
    params.cpuparams.n_threads = 1
    params.fit_params = False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def ask(server: xllamacpp.Server, path: str, **asked: Any) -> Any:
    """The server's answer to one request."""
    request = Request(f"{server.listening_address}/{path}", json.dumps(asked).encode())
    with urlopen(request) as answer:
        return json.load(answer)


def main(model: str, out: str) -> None:
    """Write the ids of the given texts, and what is likeliest behind the given prompts."""
    asked = json.load(sys.stdin)
    server = serve(model)
    ids = [ask(server, "tokenize", content=text, add_special=True)["tokens"] for text in asked["texts"]]
    settings = {"n_predict": asked["tokens"], "temperature": 0, "return_tokens": True, "cache_prompt": False}
    answers = [ask(server, "completion", prompt=row, **settings)["tokens"] for row in asked["prompts"]]
    Path(out).write_text(json.dumps({"ids": ids, "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
