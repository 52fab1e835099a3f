"""The interpreter, the processor, and where files go."""

from __future__ import annotations

import os
import platform
import re
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from moe_patch.doctor.report import Storage, SystemInfo
from moe_patch.io.cache import cache_folder


def system_info() -> SystemInfo:
    """What the library runs on."""
    return SystemInfo(
        moe_patch=_own_version(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        processor=processor_name(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch_build=_torch_build(),
    )


def storage_info() -> Storage:
    """Where the cache is, what is in it, and how many bytes are free there and in the working folder."""
    cache = cache_folder()
    sizes = list(_sizes(cache))
    return Storage(
        cache=without_home(str(cache)),
        cache_files=len(sizes),
        cache_bytes=sum(sizes),
        free_at_cache=_free(cache),
        free_at_work=_free(Path.cwd()),
    )


def processor_name() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def without_home(text: str) -> str:
    """The text with ~ for the home folder, whose name is often that of a person."""
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if Path(home).parent != Path(home) else text


def _own_version() -> str:
    try:
        return version("moe-patch")
    except PackageNotFoundError:  # a source tree that is on the path but not installed
        return "unknown"


def _torch_build() -> str:
    """What torch was built for: why a GPU is not found is often seen here."""
    for name, release in (
        ("CUDA", torch.version.cuda),
        ("ROCm", torch.version.hip),
        ("XPU", torch.version.xpu),
    ):
        if release:
            return f"{name} {release}"
    return "CPU" if not torch.backends.mps.is_built() else "MPS"


def _sizes(folder: Path) -> list[int]:
    """Bytes of every file in the folder; of none where there is no folder."""
    sizes = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process is at it too
            if path.is_file():
                sizes.append(path.stat().st_size)
    return sizes


def _free(folder: Path) -> int:
    """Bytes that are free where the folder is, or will be made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free
