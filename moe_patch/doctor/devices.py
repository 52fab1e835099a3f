"""The devices that torch can run a model on: the CPU, and the devices of `torch.accelerator`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch

from moe_patch.doctor.environment import processor_name
from moe_patch.doctor.report import Device

logger = logging.getLogger(__name__)

T = TypeVar("T")


def find_devices() -> tuple[Device, ...]:
    """The CPU first, then every accelerator by torch's name, as cuda:0 (NVIDIA, AMD), mps:0 or xpu:0."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found = [_cpu()]
    if accelerator is not None:
        count = torch.accelerator.device_count()
        found += [_accelerator(torch.device(accelerator.type, index)) for index in range(count)]
    return tuple(found)


def _cpu() -> Device:
    memory = psutil.virtual_memory()
    return Device(
        name="cpu",
        product=processor_name(),
        capability=torch.backends.cpu.get_cpu_capability(),
        free=int(memory.available),
        total=int(memory.total),
    )


def _accelerator(device: torch.device) -> Device:
    """Details from the device's own torch module. Most backends have only some of these functions."""
    product = _query_device(device, "get_device_name", str)
    capability = _query_device(device, "get_device_capability", _numbered)
    free, total = _query_device(device, "mem_get_info", tuple) or (None, None)
    return Device(str(device), product, capability, free, total)


def _query_device(device: torch.device, name: str, read: Callable[[Any], T]) -> T | None:
    """The result of the function `name` for the device; None if there is no such function or it fails."""
    function = getattr(torch.get_device_module(device), name, None)
    if function is None:
        return None
    try:
        return read(function(device.index))
    except RuntimeError as error:  # the device is lost or full; its self-test will show it
        logger.debug("%s of %s: %s", name, device, error)
        return None


def _numbered(capability: Any) -> str | None:
    """CUDA's (9, 0) as 9.0. Intel's capability is a long table of properties: it is left out."""
    return ".".join(map(str, capability)) if isinstance(capability, tuple) else None
