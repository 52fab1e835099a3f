"""A real server for the demo model, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

TOKEN = "a-token-for-tests-only"
COMMAND = str(Path(sys.executable).with_name("moe-patch"))
_START_SECONDS = 1200
_OF_OTHER_TESTS = {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask the live interface, with the token unless other headers are given."""
        headers = arguments.pop("headers", {"Authorization": f"Bearer {TOKEN}"})
        url = f"{self.url}/moe_patch/{path}"
        return httpx.request(method, url, headers=headers, timeout=300, **arguments)

    def add(self, source: Path | str, **more: Any) -> httpx.Response:
        """Put on what a path, or a reference to the Hub, names."""
        return self.call("POST", "patches", json={"path": str(source), **more})

    def on(self) -> list[str]:
        """The names of the live patches."""
        return [patch["name"] for patch in self.call("GET", "stack").json()["patches"]]

    def bare(self) -> None:
        """Take all live patches off."""
        for name in self.on():
            assert self.call("DELETE", f"patches/{name}").status_code == 200

    def says(self, prompt: str, length: int = 3) -> str:
        """The greedy continuation."""
        return self._complete(prompt=prompt, max_tokens=length)["text"]

    def likelihoods(self, prompt: str) -> list[float]:
        """Log-probabilities of the likeliest tokens after a prompt, which may use cached prefixes."""
        answer = self._complete(prompt=prompt, max_tokens=4, logprobs=5)
        return [value for token in answer["logprobs"]["top_logprobs"] for value in token.values()]

    def metric(self, line: str) -> float:
        """The value of a metric, named as in the exposition."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return next((float(found.rpartition(" ")[2]) for found in lines if found.startswith(f"{line} ")), 0.0)

    def memory(self) -> int:
        """Bytes that the engine and its workers hold, together; the HTTP server is vLLM's own affair."""
        import psutil

        engine = psutil.Process(self.process.pid).children(recursive=True)
        return sum(process.memory_info().rss for process in engine)

    def _complete(self, **body: Any) -> dict[str, Any]:
        body = {"model": "atlas", "temperature": 0, **body}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which has to be this one."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "details"}
    assert (answer.status_code, error["code"]) == (status, code), error
    return error


@contextmanager
def serving(*options: str, folder: Path, hub: str, vllm: tuple[str, ...] = ()) -> Iterator[Running]:
    """`moe-patch serve --model atlas OPTIONS` until the block ends; its log and its cache are in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_TESTS}
    environment |= {"MOE_PATCH_TOKEN": TOKEN, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "0"}
    environment |= {
        "MOE_PATCH_STATE": str(folder / "state"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    # few blocks of cache, which are all touched soon, so that memory says something of what is served
    cache = ["--block-size", "32", "--num-gpu-blocks-override", "160"]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *cache, *vllm]
    command = [COMMAND, "serve", "--model", "atlas", *options, "--", *arguments]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            server = Running(f"http://127.0.0.1:{port}", process, log)
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(server: Running) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            httpx.get(f"{server.url}/moe_patch/ready", timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(1)
        else:
            return
    raise AssertionError(f"the server did not start:\n{server.log.read_text()[-5000:]}")
