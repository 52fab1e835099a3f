"""An ordered list of patches on a live model. They can be removed in any order."""

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
    """The patches that are applied to a model, the lowest first.

        stack = moe_patch.Stack(base)
        stack.push(first), stack.push(second)
        stack.remove(first)

    After any operation the weights are the base's plus the patches in the list, summed in their order in
    fp32 and rounded once. They have the same bits as if just these patches had been pushed onto the bare
    base. With an empty list they are the base's own, bit for bit. Mode "hook" never touches the weights.

    Memory: mode "merge" keeps one original of every down projection that a patch touches, for any number of
    patches, and frees it with the last of them. `kept_bytes` is its present size. It never exceeds the down
    projections of all MoE layers. In both modes the patches' own tensors stay in memory.

    Leaving a `with` block removes all patches.
    """

    def __init__(
        self,
        model: Base | nn.Module,
        *,
        mode: Mode = "merge",
        rounding: Rounding = "nearest",
        check: bool = True,
        allow_large: bool = False,
    ) -> None:
        """Start with no patches. The options are those of `moe_patch.apply`."""
        self._base = model if isinstance(model, Base) else wrap(model, tokenizer=None)
        self._apply = partial(
            apply, self._base, mode=mode, rounding=rounding, check=check, allow_large=allow_large
        )
        self._on: list[Patch] = []
        self._applied: dict[str, Applied] = {}  # by hash

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The applied patches, the lowest first."""
        return tuple(self._on)

    @property
    def kept_bytes(self) -> int:
        """Bytes that the kept originals of merged weights take, including those that other code merged."""
        originals = (layer.originals.values() for layer in self._base.layers.values())
        return sum(kept.nbytes for layer in originals for kept in layer)

    def push(self, patch: Patch) -> None:
        """Put a patch on top. After an error the stack is as it was before.

        Raises:
            MoePatchError: any error of `moe_patch.apply`.
        """
        self._applied[patch.hash] = self._apply(patch)
        self._on.append(patch)

    def pop(self) -> Patch:
        """Remove the topmost patch and return it.

        Raises:
            StackError: the stack is empty.
        """
        if not self._on:
            raise StackError("the stack is empty: there is nothing to pop")
        return self.remove(self._on[-1])

    def remove(self, patch: Patch | str) -> Patch:
        """Remove a patch from any place in the stack and return it.

        Args:
            patch: the patch, its hash, or at least the first eight digits of its hash.

        Raises:
            StackError: the patch is not on the stack.
            UnclearPatch: several patches match.
        """
        gone = self._on.pop(self._place(patch))
        self._applied.pop(gone.hash).remove()
        return gone

    def reorder(self, patches: Sequence[Patch | str]) -> None:
        """Put the applied patches into another order, the lowest first.

        Raises:
            StackError: `patches` does not name each applied patch once.
        """
        places = [self._place(patch) for patch in patches]
        if sorted(places) != list(range(len(self._on))):
            raise StackError(f"to reorder, name each of the {len(self._on)} patches on the stack once")
        wanted = [self._on[place] for place in places]
        same = 0
        while same < len(wanted) and places[same] == same:
            same += 1
        for _ in wanted[same:]:
            self.pop()
        self.extend(wanted[same:])

    def extend(self, patches: Iterable[Patch]) -> None:
        """Push several patches, one after the other; raises as `push` does."""
        for patch in patches:
            self.push(patch)

    def clear(self) -> None:
        """Remove all patches, from the top down."""
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
