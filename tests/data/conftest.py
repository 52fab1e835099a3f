from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_patch.data.fact_file import FactFile, read_facts


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., FactFile]:
    """Read these lines: objects, text or bytes."""

    def read(*lines: Any, **options: Any) -> FactFile:
        raw = [
            line
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        (tmp_path / "facts.jsonl").write_bytes(b"\n".join(raw))
        return read_facts(tmp_path / "facts.jsonl", **options)

    return read
