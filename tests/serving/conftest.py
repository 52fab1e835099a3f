"""All tests here need vLLM, which has its own environment (`make test-serving`)."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("vllm") is None:
    collect_ignore_glob = ["*"]

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # engines in this process
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the engine shares this process with the tests
