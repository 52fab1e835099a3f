"""Patches on a live model, in order, to be taken off in any order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from moe_patch.apply import Applied, Mode, Rounding, apply
from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.errors import StackError, UnclearPatch
from moe_patch.patch import Patch
from moe_patch.patch.member import Member, find_member


class Stack:
    """The patches on a model, the lowest first.

        stack = moe_patch.Stack(base)
        stack.push(first), stack.push(second)
        stack.remove(first)

    Whatever was done, the weights are those of the base plus the patches that are on, summed in their order
    in fp32 and rounded once: the bits that pushing just these patches onto the bare base would have given.
    With none on they are the base's own, bit for bit. In mode "hook" the weights are never touched.

    Memory: "merge" keeps one original of every down projection that a patch touches, however many do, and
    frees it with the last of them; `kept_bytes` says how much that is now. It can never be more than the
    down projections of all MoE layers. In either mode the patches' own tensors stay in memory.

    Leaving a `with` block takes all patches off.
    """

    def __init__(
        self,
        model: Base | nn.Module,
        *,
        mode: Mode = "merge",
        rounding: Rounding = "nearest",
        check: bool = True,
    ) -> None:
        """Start with nothing on; `mode`, `rounding` and `check` are those of `moe_patch.apply`."""
        self._base = model if isinstance(model, Base) else wrap(model, tokenizer=None)
        self._apply = partial(apply, self._base, mode=mode, rounding=rounding, check=check)
        self._on: list[Patch] = []
        self._applied: dict[str, Applied] = {}  # by hash

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches that are on, the lowest first."""
        return tuple(self._on)

    @property
    def kept_bytes(self) -> int:
        """What the kept originals of merged weights take, whoever merged into them."""
        originals = (layer.originals.values() for layer in self._base.layers.values())
        return sum(kept.nbytes for layer in originals for kept in layer)

    def push(self, patch: Patch) -> None:
        """Put a patch on top; on any error, which are those of `moe_patch.apply`, the stack is as before."""
        self._applied[patch.hash] = self._apply(patch)
        self._on.append(patch)

    def pop(self) -> Patch:
        """Take the topmost patch off; StackError if there is none."""
        if not self._on:
            raise StackError("the stack is empty: there is nothing to pop")
        return self.remove(self._on[-1])

    def remove(self, patch: Patch | str) -> Patch:
        """Take a patch off, wherever it is; StackError if it is not on.

        Args:
            patch: the patch, its hash, or the first eight digits of it or more.
        """
        gone = self._on.pop(self._place(patch))
        self._applied.pop(gone.hash).remove()
        return gone

    def reorder(self, patches: Sequence[Patch | str]) -> None:
        """Put the patches that are on into another order, the lowest first.

        Raises:
            StackError: `patches` are not those that are on, each once.
        """
        places = [self._place(patch) for patch in patches]
        if sorted(places) != list(range(len(self._on))):
            raise StackError(f"to reorder, name each of the {len(self._on)} patches that are on once")
        wanted = [self._on[place] for place in places]
        same = 0
        while same < len(wanted) and places[same] == same:
            same += 1
        for _ in wanted[same:]:
            self.pop()
        self.extend(wanted[same:])

    def extend(self, patches: Iterable[Patch]) -> None:
        """Push several patches, one after the other."""
        for patch in patches:
            self.push(patch)

    def clear(self) -> None:
        """Take everything off, from the top."""
        while self._on:
            self.pop()

    def __len__(self) -> int:
        return len(self._on)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *exception: object) -> None:
        self.clear()

    def _place(self, patch: Patch | str) -> int:
        digest = patch if isinstance(patch, str) else patch.hash
        members = [Member(on.hash, on, number) for number, on in enumerate(self._on, start=1)]
        try:
            return find_member(members, digest).number - 1
        except UnclearPatch as error:
            if error.meant:
                raise
            raise StackError(f"the patch {digest} is not on this stack") from error
