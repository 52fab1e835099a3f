"""The hashes of a checkpoint's tensors, as the model has them that transformers opens from it.

The steps of transformers' loader are followed. A tensor that is taken as it is stored is read in runs. A
stack of experts is put together one expert at a time. Anything else is made in memory by the loader's own
operations. Where the dtype of the opened model does not hold a stored number, it is rounded as at opening.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose, build_glob_alternation

from moe_patch.base.digests import Pieces, hash_pieces, runs
from moe_patch.base.parts import Part
from moe_patch.checkpoint.names import Source
from moe_patch.checkpoint.shards import Span
from moe_patch.checkpoint.values import SpanReader, run_bounds
from moe_patch.errors import ModelError
from moe_patch.progress import Progress

_Place = tuple[str, int, int]  # file, begin, end


@dataclass(frozen=True, slots=True)
class _Work:
    """Pieces to hash, and the places that are read for them."""

    pieces: Pieces
    places: list[_Place]

    @classmethod
    def of(cls, part: Part, first: int, places: list[_Place], read: Callable[[], Iterable[Tensor]]) -> _Work:
        """The pieces of a part from number `first` on."""
        return cls(Pieces(part.name, first, sum(end - begin for _, begin, end in places), read), places)


class StoredLeaves:
    """Hashes the tensors of a checkpoint as the model has them that is opened from it."""

    def __init__(
        self, folder: Path, model: Any, sources: Mapping[str, Source], spans: Mapping[str, Span]
    ) -> None:
        """Prepare to read.

        Args:
            folder: the checkpoint.
            model: the model that is opened from it, on the meta device.
            sources: as `follow_loader` gives them.
            spans: the checkpoint's tensors by name.
        """
        self._folder, self._model, self._sources, self._spans = folder, model, sources, spans
        self._reader = SpanReader(folder, spans)
        wide = model._get_dtype_plan(model.dtype)  # what stays in fp32 in a model of half precision
        self._wide = build_glob_alternation(list(wide))[0] if wide else None

    def stored(self, parts: Iterable[Part]) -> list[Part]:
        """The parts by the paths that the checkpoint has them under, and tied ones also by further names.

        Raises:
            ModelError: it has none for a part.
        """
        found: list[Part] = []
        for part in parts:
            there = [one for one in (part, *part.aliases) if one.path in self._sources]
            if not there:
                raise ModelError(f"the checkpoint {self._folder} has no tensor for {part.path}")
            found += [replace(part, path=there[0].path), *there[1:]]
        return found

    def hash(
        self, parts: Iterable[Part], progress: Progress | None = None, threads: int | None = None
    ) -> dict[str, Tensor]:
        """The hashes (n, 32) uint8 of the pieces of stored parts, by their names.

        Args:
            parts: as `stored` gives them.
            progress: as for `hash_pieces`.
            threads: as for `hash_pieces`.

        Raises:
            ModelError: a file changed while it was read, or a tensor is not of the model's shape or is stored
                in an unknown way.
        """
        return self._hash((item for part in parts for item in self._work(part)), progress, threads)

    def hash_again(self, part: Part, experts: Collection[int], folder: Path, before: Tensor) -> Tensor:
        """The hashes (n, 32) of a stack's pieces in a copy of the checkpoint where some experts changed.

        Args:
            part: the stack, which is stored.
            experts: those that may have changed.
            folder: the copy, whose files have the layout of this checkpoint's.
            before: the hashes (n, 32) in this checkpoint.

        Raises:
            ModelError: a file changed while it was read.
        """
        copy = StoredLeaves(folder, self._model, self._sources, self._spans)
        after = before.clone()
        after[sorted(experts)] = copy._hash(
            item for item in copy._work(part) if item.pieces.first in experts
        )[part.name]
        return after

    def _hash(
        self, items: Iterable[_Work], progress: Progress | None = None, threads: int | None = None
    ) -> dict[str, Tensor]:
        work = sorted(items, key=lambda item: item.places)
        total = sum(item.pieces.size for item in work)
        with ExitStack() as stack:
            announced = self._announced(work, stack)
            return hash_pieces(announced, total=total, progress=progress, threads=threads)

    def _announced(self, work: Iterable[_Work], stack: ExitStack) -> Iterator[Pieces]:
        """The work in its order. The system is told of each place a little before it is read."""
        files: dict[str, int] = {}
        for item in work:
            for name, begin, end in item.places if hasattr(os, "posix_fadvise") else ():
                if name not in files:
                    files[name] = stack.enter_context((self._folder / name).open("rb")).fileno()
                os.posix_fadvise(files[name], begin, end - begin, os.POSIX_FADV_WILLNEED)
            yield item.pieces

    def _work(self, part: Part) -> Iterator[_Work]:
        """What has to be read for a stored part."""
        source = self._sources[part.path]
        spans = source.all_spans
        if part.stacked and (operations := _on_one_expert(part, source)) is not None:
            for number in range(part.count):
                slices = _slices(source, number)
                read = partial(self._expert, part, source, operations, slices)
                yield _Work.of(part, number, [_place(span, at) for _, span, at in slices], read)
        elif source.converter is None and not self._reader.is_coded(spans[0]):
            _check_shape(part, spans[0].shape)
            for number in range(part.count):
                place = (spans[0].file, *run_bounds(spans[0], number))
                yield _Work.of(part, number, [place], partial(self._run, part, spans[0], number))
        else:
            places = [_place(span, None) for span in spans]
            yield _Work.of(part, 0, places, partial(self._whole, part, source))

    def _run(self, part: Part, span: Span, number: int) -> tuple[Tensor]:
        return (self._reader.run(span, number, self._dtype(part)),)

    def _whole(self, part: Part, source: Source) -> Iterable[Tensor]:
        dtype = self._dtype(part)
        tensors = {
            pattern: [self._reader.tensor(span, dtype) for span in spans]
            for pattern, spans in source.spans.items()
        }
        value = self._converted(part, source, source.operations, tensors)
        _check_shape(part, value.shape)
        return part.oriented(value) if part.stacked else runs(value)

    def _expert(
        self, part: Part, source: Source, operations: list[Any], slices: list[_Slice]
    ) -> tuple[Tensor]:
        """One matrix of a stack, (out, in)."""
        dtype = self._dtype(part)
        tensors = {
            pattern: [self._reader.tensor(span, dtype, number)[None]] for pattern, span, number in slices
        }
        value = self._converted(part, source, operations, tensors)[0]
        _check_shape(part, (part.count, *value.shape))
        return (part.oriented(value),)

    def _converted(
        self, part: Part, source: Source, operations: list[Any], tensors: dict[str, list[Tensor]]
    ) -> Tensor:
        """What the loader makes of stored tensors, by its patterns."""
        if not operations:
            return next(iter(tensors.values()))[0]
        converter = deepcopy(source.converter)
        assert converter is not None  # it is what has operations
        converter.operations = operations
        collected: dict[str, Any] = converter.collected_tensors  # futures at opening, or tensors
        collected.update(tensors)
        made = converter.convert(source.first, model=self._model, config=self._model.config)[part.path]
        value: Tensor = made[0] if isinstance(made, list) else made
        return value

    def _dtype(self, part: Part) -> torch.dtype:
        """The dtype of a parameter after opening."""
        kept = self._wide is not None and self._wide.search(part.path)
        return torch.promote_types(part.tensor.dtype, torch.float32) if kept else part.tensor.dtype


_Slice = tuple[str, Span, int | None]  # the converter's pattern, the tensor, and which slice of it if not all


def _on_one_expert(part: Part, source: Source) -> list[Any] | None:
    """What makes one matrix (1, ...) of a stack from slices (1, ...); None if slices do not suffice."""
    operations, merged = list(source.operations), _merges(source)
    if merged:
        operations = operations[1:]
    held = [len(spans) if merged else spans[0].shape[0] for spans in source.spans.values()]
    if set(held) != {part.count} or (not merged and len(source.all_spans) > len(held)):
        return None
    found: list[Any] = []
    for operation in operations:
        if (turns := source.turns(operation, part.tensor.shape)) is not None:
            found += [Transpose(1, 2)] if turns else []
        elif isinstance(operation, Concatenate) and operation.dim % 3 != 0:
            found.append(operation)
        else:
            return None
    return found


def _slices(source: Source, number: int) -> list[_Slice]:
    """Where expert `number` of a stack is stored."""
    if _merges(source):
        return [(pattern, spans[number], None) for pattern, spans in source.spans.items()]
    return [(pattern, spans[0], number) for pattern, spans in source.spans.items()]


def _merges(source: Source) -> bool:
    """Whether the loader puts a stack together from matrices that are stored one by one."""
    first = next(iter(source.operations), None)
    return isinstance(first, MergeModulelist) and first.dim == 0


def _place(span: Span, number: int | None) -> _Place:
    return (span.file, *((span.begin, span.end) if number is None else span.part(number)))


def _check_shape(part: Part, shape: Iterable[int]) -> None:
    if tuple(shape) != tuple(part.tensor.shape):
        raise ModelError(
            f"{part.path} is stored with the shape {tuple(shape)}; the model expects "
            f"{tuple(part.tensor.shape)}"
        )
