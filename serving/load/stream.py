"""Adds a patch to a checkpoint's tensors as they are read, whole and under their stored names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from moe_patch.apply.weights.finite import require_finite
from moe_patch.apply.weights.size import refuse_oversized
from moe_patch.apply.weights.summed import patched_weight
from moe_patch.checkpoint import Checkpoint
from moe_patch.checkpoint.slot import Slot
from moe_patch.errors import ModelError
from moe_patch.patch import Patch
from moe_patch_serving.served_base import served_base


class PatchedStream:
    """Tensors of a checkpoint with a patch in them, and an account of which experts came past.

    A stored tensor is one expert's down projection, or a layer's, (E, d_m, d_k), or either turned around;
    `moe_patch.checkpoint.names` knows which, so a square one is no riddle.
    """

    def __init__(
        self, checkpoint: Checkpoint, patch: Patch, dtype: torch.dtype, *, allow_large: bool = False
    ) -> None:
        """Prepare to patch the tensors of a checkpoint.

        Args:
            checkpoint: the checkpoint whose tensors will be read.
            patch: a patch of kind "delta".
            dtype: the engine's dtype. If it is wider than the stored one, less is lost to rounding.
            allow_large: as in `moe_patch.apply`.

        Raises:
            WrongBase: the checkpoint is not the base that the patch was built for.
            OversizedEdit: a change is much larger than its expert, and that is not allowed.
        """
        served_base(checkpoint).check(patch)
        if not allow_large:
            refuse_oversized(patch, checkpoint.weight)
        self._patch, self._dtype, self._folder = patch, dtype, checkpoint.folder
        self._due: dict[str, dict[int, tuple[int, Slot]]] = defaultdict(dict)  # by tensor, then expert
        for layer, delta in patch.layers.items():
            for expert in delta.experts():
                slot = checkpoint.slots[layer][expert]
                assert isinstance(slot, Slot)  # checkpoints of quantised experts are refused at opening
                self._due[slot.name][expert] = (layer, slot)

    def apply(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same tensors. Touched ones are copies with the deltas added in fp32 and rounded once.

        Raises:
            NotFinite: a weight overflows the engine's dtype.
        """
        for name, tensor in tensors:
            due = self._due.pop(name, None)
            yield name, tensor if due is None else self._edited(name, tensor, due)

    def finish(self, present: Collection[int] | None = None) -> None:
        """Check that every expert that the patch changes has been read.

        Args:
            present: the experts that this worker reads from the files; None means all.

        Raises:
            ModelError: an expert is missing.
        """
        missing = sorted(
            name
            for name, due in self._due.items()
            if present is None or any(expert in present for expert in due)
        )
        if missing:
            raise ModelError(
                f"{len(missing)} tensors of {self._folder} that the patch changes were never loaded, the "
                f"first of them {missing[0]}: the engine reads the experts' weights from elsewhere"
            )

    def _edited(self, name: str, tensor: Tensor, due: dict[int, tuple[int, Slot]]) -> Tensor:
        edited = tensor.to(torch.promote_types(tensor.dtype, self._dtype), copy=True)
        for expert, (layer, slot) in due.items():
            weight = edited[expert] if edited.dim() == 3 else edited
            weight = weight.T if slot.transposed else weight  # (d_m, d_k)
            if tuple(weight.shape) != slot.shape:
                raise ModelError(f"{name} was read as {tuple(tensor.shape)}; expected {slot.shape} an expert")
            weight.copy_(patched_weight(weight, expert, [self._patch.layers[layer]]))
            require_finite(weight.to(self._dtype), layer, expert)
        return edited
