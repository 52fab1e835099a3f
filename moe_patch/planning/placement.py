"""Where a model's layers would lie: the device map that accelerate makes, from sizes alone."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from accelerate import infer_auto_device_map

from moe_patch.errors import ConfigError
from moe_patch.planning.machine import GPUS
from moe_patch.planning.outline import ModelOutline

GIB = 2**30
_FORM = re.compile(
    r"(?:(?P<before>\d+)\s*[x*]\s*)?(?P<what>[A-Za-z]\w*|\d+(?:\.\d+)?\s*(?:GiB|GB|G)?)"
    r"(?:\s*[x*]\s*(?P<after>\d+))?",
    re.IGNORECASE,
)
_FREE = 0.95  # share of a device's memory that can be used: the rest is the driver's and torch's own


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of one kind."""

    count: int
    memory: int  # bytes of each
    kind: str  # a name in `GPUS`; of those with this memory the slowest, if only the memory is known
    named: bool  # whether the kind was given

    @classmethod
    def parse(cls, text: str) -> Gpus:
        """Read "H100", "A100 x 4", "80GiB" or "8x80GiB".

        Raises:
            ConfigError: it has another form, or no such GPU is known.
        """
        found = _FORM.fullmatch(text.strip())
        count = int((found and (found["before"] or found["after"])) or 1)
        if found is None or not count or (found["before"] and found["after"]):
            raise ConfigError(
                f"cannot read the GPUs {text!r}: expected a form such as H100, 8xA100 or 80GiBx8"
            )
        what = found["what"].replace(" ", "")
        if what[0].isdigit():
            size = float(re.sub("[a-z]+$", "", what, flags=re.IGNORECASE))
            return cls(count, int(size * GIB), _slowest(size), named=False)
        kind = next((name for name in GPUS if name.lower() == what.lower()), None)
        if kind is None:
            raise ConfigError(
                f"no peaks are known of the GPU {what!r}: expected one of {', '.join(GPUS)}, or its memory"
            )
        return cls(count, int(GPUS[kind][2] * GIB), kind, named=True)


def _slowest(memory: float) -> str:
    """Of the GPUs with at least this memory in GiB, the one with the fewest operations a second."""
    fitting = [name for name, (_, _, size) in GPUS.items() if size >= memory] or list(GPUS)
    return min(fitting, key=lambda name: GPUS[name][0])


@dataclass(frozen=True, slots=True)
class Placement:
    """Where layers lie."""

    layers: Mapping[str, int]  # decoder layers by device: "0", "1", ..., "cpu" or "disk"
    room: Mapping[str, int]  # bytes by device that weights may take

    @property
    def fits(self) -> bool:
        """Whether no layer is offloaded from where it runs."""
        return "disk" not in self.layers and (len(self.room) == 1 or "cpu" not in self.layers)


def place(model: ModelOutline, gpus: Gpus | None, ram: int, reserve: int) -> Placement:
    """The map that `--device-map auto` makes, where each device keeps `reserve` bytes for passes.

    Args:
        model: the model.
        gpus: None for the CPU alone.
        ram: bytes of main memory.
        reserve: bytes for activations and what a build keeps.
    """
    room: dict[str, int] = {}
    if gpus is not None:
        room = {str(number): max(0, int(_FREE * gpus.memory) - reserve) for number in range(gpus.count)}
    room["cpu"] = max(0, int(_FREE * ram) - (0 if room else reserve))
    with _unavailable_devices():
        found = infer_auto_device_map(
            model.base.model,
            max_memory={int(name) if name.isdigit() else name: size for name, size in room.items()},
            no_split_module_classes=sorted(model.base.model._no_split_modules or ()),
            dtype=model.dtype,
            offload_buffers=True,
        )
    paths = {id(module): name for name, module in model.base.model.named_modules()}
    lie = [_device(found, paths[id(layer)]) for layer in model.base.decoder_layers]
    return Placement(dict(Counter(lie)), room)


@contextmanager
def _unavailable_devices() -> Iterator[None]:
    """Hide that planned devices are not in this machine."""
    logger = logging.getLogger("accelerate.utils.modeling")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _device(found: Mapping[str, int | str], path: str) -> str:
    """The device of a module: that of the longest entry that holds it, or of its own first part."""
    within = [name for name in found if not name or path == name or path.startswith(f"{name}.")]
    name = max(within, key=len) if within else next(name for name in found if name.startswith(f"{path}."))
    return str(found[name])
