"""Whether the served checkpoint is the base of the patches that are put on it, without waiting for it.

Starting a server, or taking a patch, does not hash a whole checkpoint. If its hashes are known, all of it is
compared. Else the experts that a patch touches are hashed and compared, and the first worker hashes the rest
meanwhile. If that finds a difference, no further patch is taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_patch.checkpoint import Checkpoint
from moe_patch.errors import ModelError, WrongBase
from moe_patch.patch import Patch, check_base, check_shapes, check_touched

logger = logging.getLogger(__name__)

_of_folder: dict[Path, ServedBase] = {}


class ServedBase:
    """The checkpoint that this process serves, and what is known of it."""

    def __init__(self, checkpoint: Checkpoint, *, hashes: bool) -> None:
        """Begin without having looked at a file.

        Args:
            hashes: whether this process hashes the files if they are not known; one for each engine does.
        """
        self._checkpoint, self._hashes = checkpoint, hashes
        self._pieces: Mapping[str, Tensor] | None = None  # of the whole checkpoint, once they are known
        self._leaves: dict[int, str] = {}  # of the down projections that patches touch, as far as needed
        self._unproven: list[Patch] = []  # of which only the touched experts were compared
        self._hashing: threading.Thread | None = None
        self._looking = threading.Lock()
        self._share, self._problem = 0.0, ""

    def check(self, patch: Patch) -> None:
        """Check that a patch was built for this base, as far as that is known.

        Raises:
            WrongBase: it was not, or an earlier patch turned out to be of another base.
        """
        with self._looking:
            self._check(patch)

    def _check(self, patch: Patch) -> None:
        if self._problem:
            raise WrongBase(self._problem)
        if patch.kind == "delta":  # a bypass may be beside a dense layer, which has no such shape
            check_shapes(patch, self._checkpoint.base.shapes)
        if patch.base.format == 1:
            check_base(patch, self._checkpoint.fingerprint_like(patch.base))
            return
        if self._pieces is None:
            self._pieces = self._checkpoint.known_pieces()
        if self._pieces is not None:
            check_base(patch, self._checkpoint.identity(patch.base.experts, self._pieces))
            return
        self._check_touched(patch)
        self._unproven.append(patch)
        if self._hashes and self._hashing is None:
            self._hashing = threading.Thread(target=self._hash, name="moe-patch-base", daemon=True)
            self._hashing.start()

    def state(self) -> dict[str, Any]:
        """What is known, as JSON values: the state, the share of the files that is hashed, and the problem.

        The state is "unasked" before the first patch, "touched" in a worker that compares touched experts
        only, "checking", "checked", or "differs".
        """
        return {"state": self._word(), "share": round(self._share, 3), "problem": self._problem}

    def _word(self) -> str:
        if self._problem:
            return "differs"
        if self._pieces is not None:
            return "checked"
        if self._hashing is not None:
            return "checking"
        return "touched" if self._unproven else "unasked"

    def _check_touched(self, patch: Patch) -> None:
        found = self._checkpoint.touched_fingerprint(patch.base.experts, self._leaves)
        self._leaves |= found.experts
        check_touched(patch, found)

    def _hash(self) -> None:
        """Hash the files, and hold all patches so far against them."""
        try:
            pieces = self._checkpoint.pieces(progress=self._note, threads=1)
            with self._looking:
                for patch in self._unproven:
                    check_base(patch, self._checkpoint.identity(patch.base.experts, pieces))
                self._pieces, self._share = pieces, 1.0
        except (ModelError, OSError, WrongBase) as error:
            self._problem = f"{self._checkpoint.name}: {error}"
            logger.critical("no further patch is taken: %s", self._problem)

    def _note(self, _: str, done: int, total: int) -> None:
        self._share = done / max(total, 1)


def served_base(checkpoint: Checkpoint) -> ServedBase:
    """What this process knows of the checkpoint. All callers get the same object for a folder."""
    folder = checkpoint.folder.resolve()
    if folder not in _of_folder:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        first = not distributed or torch.distributed.get_rank() == 0
        _of_folder[folder] = ServedBase(checkpoint, hashes=first)
    return _of_folder[folder]
