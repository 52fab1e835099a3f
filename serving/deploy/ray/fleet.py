"""Runs a fleet of servers as Ray actors, one on each GPU, and adds a patch to one server after the other.

    ray job submit -- python fleet.py --stack /shared/moe-patch.stack --servers 4
    ray job submit -- python fleet.py --stack /shared/moe-patch.stack --servers 4 --add /shared/fix

The actors are detached and named, so the second job finds those of the first. Patches must be on storage that
all nodes reach under one path. MOE_PATCH_TOKEN must be set for the job.

One model over several nodes needs only vLLM's own `--distributed-executor-backend ray` after `--`. Every node
imports the worker extension by name, and each worker reads the patch from the shared path.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
import urllib.error
import urllib.request

import ray

FIRST_PORT = 8000
START_SECONDS = 1800


class Server:
    """One `moe-patch serve` on the GPU that Ray gave this actor."""

    def __init__(self, number: int, model: str, stack: str) -> None:
        self.port = FIRST_PORT + number
        options = ["--model", model, "--stack", stack, "--", "--host", "0.0.0.0", "--port", str(self.port)]
        self.process = subprocess.Popen(["moe-patch", "serve", *options])

    def url(self) -> str:
        """Its address, once its weights are loaded."""
        url = f"http://{ray.util.get_node_ip_address()}:{self.port}"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/moe_patch/ready", timeout=5):
                    return url
            except (urllib.error.URLError, OSError):
                time.sleep(2)
        raise RuntimeError(f"the server on port {self.port} did not start")


def main() -> None:
    """Find or start the fleet, and add a patch if one is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="Qwen/Qwen3-30B-A3B")
    parser.add_argument("--stack", required=True)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--add", metavar="PATCH")
    options = parser.parse_args()
    ray.init(runtime_env={"env_vars": {"MOE_PATCH_TOKEN": os.environ["MOE_PATCH_TOKEN"]}})
    actor = ray.remote(num_gpus=1, max_restarts=-1)(Server)
    fleet = [
        actor.options(name=f"moe-patch-{number}", lifetime="detached", get_if_exists=True).remote(
            number, options.model, options.stack
        )
        for number in range(options.servers)
    ]
    urls = ray.get([server.url.remote() for server in fleet])
    if options.add:
        # one after the other; if one fails, those before it are changed back
        where = [part for url in urls for part in ("--url", url)]
        subprocess.run(["moe-patch", "live", "add", options.add, *where], check=True)


if __name__ == "__main__":
    main()
