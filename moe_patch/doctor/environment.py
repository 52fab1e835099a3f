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
    """The interpreter, the processor and the build of torch."""
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
    """The cache's place and size, and the free bytes at the cache and in the working folder."""
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
    """The processor's name, if the system gives one."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def without_home(text: str) -> str:
    """The text with ~ instead of the home folder's path, which often contains a person's name."""
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if Path(home).parent != Path(home) else text


def _own_version() -> str:
    try:
        return version("moe-patch")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"


def _torch_build() -> str:
    """What torch was built for. This often explains why a GPU is not found."""
    for name, release in (
        ("CUDA", torch.version.cuda),
        ("ROCm", torch.version.hip),
        ("XPU", torch.version.xpu),
    ):
        if release:
            return f"{name} {release}"
    return "CPU" if not torch.backends.mps.is_built() else "MPS"


def _sizes(folder: Path) -> list[int]:
    """The size in bytes of every file in the folder; empty if there is no folder that can be read."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process has removed the file
                sizes.append(Path(place, name).stat().st_size)
    return sizes


def _free(folder: Path) -> int:
    """Free bytes at the place of the folder, even if it does not exist yet, or cannot."""
    for place in (folder.absolute(), *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0
