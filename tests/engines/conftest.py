"""All tests here need engines' own environment (`make test-engines`)."""

from __future__ import annotations

from tests.engines.merged import PYTHON

if not PYTHON:
    collect_ignore_glob = ["*"]
