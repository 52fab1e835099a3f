"""What every test runs under: no network, one thread unless more are asked for, a cache folder and a log of
its own, no notice of deprecation.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import that reads it

from pathlib import Path

import pytest
import torch


class Notices(logging.Handler):
    """Keeps what transformers logs, rather than warns, of names that it is going to take away."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "deprecat" in (text := record.getMessage()):
            self.texts.append(text)


@pytest.fixture(autouse=True, scope="session")
def notices() -> Notices:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.set_verbosity_warning()
    transformers_logging.add_handler(handler := Notices())
    torch.set_num_threads(int(os.environ.get("MOE_PATCH_TEST_THREADS", "1")))
    return handler


@pytest.fixture(autouse=True)
def no_notice_of_deprecation(notices: Notices) -> Iterator[None]:
    notices.texts.clear()
    yield
    assert not notices.texts, f"something that is called here is deprecated: {notices.texts[0]}"


@pytest.fixture(autouse=True, scope="session")
def no_folder_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that several tests share have folders of their own too, and find nothing of an earlier run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOE_PATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("MOE_PATCH_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_PATCH_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_PATCH_STATE", str(tmp_path.with_name(f"{tmp_path.name}-state")))


@pytest.fixture(autouse=True)
def full_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables have their full width, whatever the terminal is from which tests are started."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def own_log() -> None:
    """Take back what commands in this process, also those of wider fixtures, have set of loggers."""
    for log in (logging.getLogger("moe_patch"), logging.getLogger("py.warnings")):
        log.setLevel(logging.NOTSET)
        log.handlers, log.filters, log.propagate = [], [], True
    logging.captureWarnings(False)
