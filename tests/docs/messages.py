"""The texts in the source, as messages are made of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def texts_of_source() -> frozenset[str]:
    """All texts of moe_patch and serving; a null character stands for what an f-string puts in."""
    modules = [path for top in ("moe_patch", "serving") for path in (ROOT / top).rglob("*.py")]
    return frozenset(text for path in modules for text in _texts(ast.parse(path.read_text(encoding="utf-8"))))


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "\0"
                for part in node.values
            )


def is_said(message: str) -> bool:
    """Whether one text of the source has all parts of the message, between its `...`, in order."""
    parts = [part.strip() for part in message.split("...") if part.strip()]
    return bool(parts) and any(_in_order(parts, text) for text in texts_of_source())


def _in_order(parts: list[str], text: str) -> bool:
    at = 0
    for part in parts:
        if (at := text.find(part, at)) < 0:
            return False
        at += len(part)
    return True
