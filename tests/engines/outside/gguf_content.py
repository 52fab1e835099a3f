"""Say what is in a GGUF file, by the `gguf` package's reader, without this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file


def read(source: Path, out: Path) -> None:
    """Write its tensors to `out`, and its tokens into the metadata there."""
    reader = gguf.GGUFReader(source)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    tokens = reader.fields[gguf.Keys.Tokenizer.LIST].contents()
    save_file(tensors, out, metadata={"tokens": json.dumps(tokens)})


if __name__ == "__main__":
    read(*map(Path, sys.argv[1:]))
