"""Nothing imports what stands above it: the layers are in pyproject.toml, and import-linter holds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"moe_patch": "moe_patch", "moe_patch_serving": "serving", "recipes": "recipes"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter's word on the packages in this folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_no_package_imports_one_above_it() -> None:
    found = lint(ROOT)
    assert not found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("moe_patch/io/files.py", "from moe_patch.patch import Patch"),
        ("moe_patch/solve/moments.py", "from transformers import AutoConfig"),
        ("moe_patch/share/hub.py", "import moe_patch_serving.errors"),
        ("moe_patch/base/model.py", "if TYPE_CHECKING:\n    from moe_patch.apply import Applied"),
        ("moe_patch_serving/bypass/rows.py", "from moe_patch_serving.api import settings"),
        ("moe_patch/unlisted/__init__.py", "from moe_patch.io import files"),
    ],
)
def test_an_import_from_above_is_found(file: str, line: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, folder in FOLDERS.items():
        shutil.copytree(ROOT / folder, tmp_path / name, ignore=shutil.ignore_patterns("atlas", "__pycache__"))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    assert "BROKEN" in lint(tmp_path).stdout
