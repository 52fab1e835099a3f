"""What every test runs under: no network, one thread, a cache folder of its own."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import that reads it

from pathlib import Path

import pytest
import torch
from transformers.utils import logging


@pytest.fixture(autouse=True, scope="session")
def quiet_and_single_threaded() -> None:
    logging.set_verbosity_error()
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
