"""The files that a live model was opened from, and what was hashed of them before.

The hashes of a checkpoint's tensors are kept in one record, whoever computes them: from the files, or from a
model that was opened from them and is unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.leaves import State, believe, state_of
from moe_patch.base.parts import Part
from moe_patch.io.known import Known


@dataclass(slots=True)
class Origin:
    """The record of a model's files, and the states of the model's tensors when they were read."""

    known: Known
    states: dict[str, State] = field(repr=False)
    recorded: bool  # whether the record has all of the tensors, or must not have them

    @classmethod
    def of(cls, folder: Path, parts: list[Part], *, own_dtype: bool) -> Origin:
        """Of a model just opened from `folder`, whose recorded hashes it takes over.

        Args:
            folder: the files.
            parts: the model's tensors.
            own_dtype: whether the model has the checkpoint's own dtype, and not a wider one.
        """
        known = known_leaves(folder)
        found = known.find() or {}
        believe(parts, found)
        complete = all(part.name in found for part in parts)
        return cls(known, {part.name: state_of(part.tensor) for part in parts}, complete or not own_dtype)

    def remember(self, parts: list[Part], pieces: Mapping[str, Tensor]) -> None:
        """Store the hashes (n, 32) of pieces by their names, if the model is still what was read."""
        if self.recorded or any(state_of(part.tensor) != self.states.get(part.name) for part in parts):
            return
        self.known.store({**(self.known.find() or {}), **pieces})
        self.recorded = True


def known_leaves(folder: Path) -> Known:
    """The record of the hashes of a checkpoint's tensors, by the names of `moe_patch.base.parts`.

    Raises:
        ModelError: a file cannot be read.
    """
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.index.json"))]
    what: JsonValue = ["leaves", 1, transformers.__version__]  # its loader and modules give values and names
    return Known.of(what, [*files, folder / "config.json"])
