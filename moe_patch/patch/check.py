"""Checks of a patch's tensors against its metadata. Reading and writing use the same ones."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moe_patch.errors import MalformedTensor, NotFinite
from moe_patch.patch.base_record import BaseLayer
from moe_patch.patch.header import TensorInfo
from moe_patch.patch.schema import Metadata

_Shape = tuple[int | None, ...]  # None is a dimension that other tensors of the layer decide


def check_table(metadata: Metadata, table: Mapping[str, TensorInfo]) -> None:
    """Check names, dtypes and shapes, which needs none of the tensors' values.

    Raises:
        MalformedTensor: a tensor is missing, unexpected, or of another dtype or shape. The message names it
            and says what was expected.
    """
    expected: set[str] = set()
    for layer in metadata.layers:
        if metadata.format == 1 and f"delta.{layer}.dense" in table:
            raise MalformedTensor(f"delta.{layer}.dense: not expected in format 1")
        expected |= _check_layer(layer, metadata.base.layers[layer], len(metadata.facts), table)
    if metadata.kind == "bypass":
        expected |= {name for name in table if name.removeprefix("bypass.") not in ("", name)}
        if not expected:
            raise MalformedTensor("a patch of kind bypass has no tensor bypass.*")
    if unknown := sorted(table.keys() - expected):
        raise MalformedTensor(f"{unknown[0]}: no such tensor in a patch of kind {metadata.kind}")


def check_values(metadata: Metadata, tensors: Mapping[str, Tensor]) -> None:
    """Check the values of tensors that have passed `check_table`.

    Raises:
        MalformedTensor: rows are out of order, or an index is out of range.
        NotFinite: a tensor contains NaN or an infinity.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotFinite(f"{name}: expected finite numbers, found NaN or an infinity")
    for layer in metadata.layers:
        num_experts, _, _ = metadata.base.layers[layer].sides
        _check_rows(f"delta.{layer}", num_experts, len(tensors[f"delta.{layer}.left"]), tensors)
        if f"delta.{layer}.dense" in tensors:
            _check_ascending(f"delta.{layer}.dense_expert", num_experts, tensors)
        if f"solve.{layer}.key" in tensors:
            _check_rows(f"solve.{layer}", num_experts, len(metadata.facts), tensors)


def _check_layer(layer: str, base: BaseLayer, num_facts: int, table: Mapping[str, TensorInfo]) -> set[str]:
    """Check the tensors of one layer and return their names."""
    _, d_model, d_key = base.sides
    delta, solve = f"delta.{layer}", f"solve.{layer}"
    left = _check(table, f"{delta}.left", "F32", (None, d_model))
    right = _check(table, f"{delta}.right", "F32", (None, d_key))
    _check(table, f"{delta}.expert", "I32", right.shape[:1])
    _check(table, f"{delta}.fact", "I32", right.shape[:1])
    names = {f"{delta}.{part}" for part in ("left", "right", "expert", "fact")}
    if f"{delta}.dense" in table:
        names |= _check_dense(delta, base, table)
    if f"{solve}.key" in table:
        key = _check(table, f"{solve}.key", "F32", (None, d_key))
        _check(table, f"{solve}.expert", "I32", key.shape[:1])
        _check(table, f"{solve}.fact", "I32", key.shape[:1])
        names |= {f"{solve}.{part}" for part in ("key", "expert", "fact")}
    if f"{solve}.residual" in table:
        _check(table, f"{solve}.residual", "F32", (num_facts, d_model))
        names.add(f"{solve}.residual")
        if f"{solve}.key" not in table and left.shape[0] != num_facts:
            raise MalformedTensor(
                f"{delta}.left: has {left.shape[0]} rows for {num_facts} facts, so the layer can be solved "
                f"again only with the facts' own rows: expected {solve}.key"
            )
    return names


def _check_dense(delta: str, base: BaseLayer, table: Mapping[str, TensorInfo]) -> set[str]:
    """Check the whole matrices of one layer and return the names of their tensors."""
    num_experts, d_model, d_key = base.sides
    name = f"{delta}.dense"
    dense = _check(table, name, "F32", (None, d_model, d_key))
    if not 1 <= dense.shape[0] <= num_experts:
        raise MalformedTensor(
            f"{name}: expected matrices of 1 to {num_experts} experts, found {dense.shape[0]}"
        )
    _check(table, f"{name}_expert", "I32", dense.shape[:1])
    residual = f"{delta.replace('delta', 'solve')}.residual"
    if residual in table:
        raise MalformedTensor(f"{residual}: not expected beside {name}, which no solve can give again")
    return {name, f"{name}_expert"}


def _check(table: Mapping[str, TensorInfo], name: str, dtype: str, shape: _Shape) -> TensorInfo:
    wanted = f"{dtype} of shape ({', '.join('any' if side is None else str(side) for side in shape)})"
    if name not in table:
        raise MalformedTensor(f"{name}: expected {wanted}, but the tensor is missing")
    found = table[name]
    fits = len(found.shape) == len(shape) and all(
        side in (None, there) for side, there in zip(shape, found.shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        raise MalformedTensor(f"{name}: expected {wanted}, found {found.dtype} of shape {found.shape}")
    return found


def _check_ascending(name: str, num_experts: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that numbers of experts exist, and ascend without repeats."""
    expert = tensors[name].long()  # (n,)
    _check_range(name, expert, num_experts)
    disorder = (expert[1:] <= expert[:-1]).nonzero()
    if len(disorder):
        raise MalformedTensor(
            f"{name}: expected experts that ascend, but number {disorder[0].item() + 1} does not"
        )


def _check_range(name: str, index: Tensor, count: int) -> None:
    outside = index[(index < 0) | (index >= count)]
    if len(outside):
        raise MalformedTensor(f"{name}: expected numbers from 0 to {count - 1}, found {outside[0].item()}")


def _check_rows(group: str, num_experts: int, num_facts: int, tensors: Mapping[str, Tensor]) -> None:
    """Check that rows name existing experts and facts, and ascend by (expert, fact) without repeats."""
    expert, fact = tensors[f"{group}.expert"].long(), tensors[f"{group}.fact"].long()  # (nnz,)
    for part, index, count in (("expert", expert, num_experts), ("fact", fact, num_facts)):
        _check_range(f"{group}.{part}", index, count)
    place = expert * max(num_facts, 1) + fact  # (nnz,)
    disorder = (place[1:] <= place[:-1]).nonzero()
    if len(disorder):
        raise MalformedTensor(
            f"{group}: expected rows that ascend by (expert, fact), but row {disorder[0].item() + 1} does not"
        )
