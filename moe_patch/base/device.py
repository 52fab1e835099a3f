"""The devices that a model is to be opened on, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moe_patch.errors import ModelError

DeviceMap = str | Mapping[str, Any] | None

_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's ways to choose devices itself
_ELSEWHERE = "disk"  # where accelerate offloads to; only in a map by layer


def check_devices(device_map: DeviceMap) -> None:
    """Check that the devices are there.

    Args:
        device_map: a device for the whole model, one of accelerate's plans, or a device by part of the model.

    Raises:
        ModelError: there is no such device, and which ones there are.
    """
    if device_map is None or device_map in _PLANS:
        return
    named = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for name in named:
        if not (name == _ELSEWHERE and isinstance(device_map, Mapping)):
            _check_device(name)


def _check_device(name: Any) -> None:
    there = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        there += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # no name of a device at all
        device = None
    if device is None or not {str(device), f"{device.type}:{device.index or 0}"} & set(there):
        raise ModelError(
            f"there is no device {str(name)!r} here: this machine has {', '.join(there)}; as --device-map, "
            f"give one of these or one of {', '.join(_PLANS)}"
        )
