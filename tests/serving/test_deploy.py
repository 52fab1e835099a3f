"""The deployment examples: linters accept them, and they agree with each other and with the server."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_patch.cli.serve import serve
from moe_patch_serving.api.weight_version import Loaded, weight_version
from tests.patch.patches import digest

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def linted(tool: str, *arguments: Any) -> None:
    """Run a linter from the path or from Python's folder; skip the test if it is missing."""
    found = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{tool} is not installed")
    run = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_yamllint_finds_nothing() -> None:
    linted("yamllint", "--strict", "--config-file", DEPLOY / ".yamllint", DEPLOY)


def test_hadolint_finds_nothing() -> None:
    linted("hadolint", "--config", DEPLOY / ".hadolint.yaml", DEPLOY / "Dockerfile")


def test_the_compose_file_follows_its_schema() -> None:
    linted("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("name", ["stable", "canary", "services", "network"])
def test_manifests_follow_kubernetes_schemas(name: str) -> None:
    linted("kubernetes-validate", "--strict", KUBERNETES / f"{name}.yaml")


def documents() -> dict[tuple[str, str], Any]:
    """All manifests, by kind and name."""
    found = {}
    for path in KUBERNETES.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            found[document["kind"], document["metadata"]["name"]] = document
    return found


def container(track: str) -> Any:
    (only,) = documents()["Deployment", f"atlas-{track}"]["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("arguments", ["stable", "canary", "compose"])
def test_servers_are_started_with_options_that_exist(arguments: str) -> None:
    if arguments == "compose":
        compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
        given = compose["services"]["server"]["command"]
    else:
        given = container(arguments)["args"]
    ours = given[: given.index("--")]
    known = {option for parameter in serve.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in ours} <= known
    entry = re.search(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert entry is not None
    assert shlex.join(yaml.safe_load(entry[1])) == "moe-patch serve"


def test_the_example_of_a_version_is_one() -> None:
    version = weight_version(Loaded((digest(1),)), ())
    for track in ("stable", "canary"):
        probe = container(track)["readinessProbe"]["httpGet"]["path"]
        assert re.fullmatch(r"/moe_patch/ready\?version=sha256:[0-9a-f]{64}", probe)
        assert len(probe.partition("=")[2]) == len(version)


def test_the_route_shares_out_all_requests_between_services_of_both_tracks() -> None:
    found = documents()
    (rule,) = found["HTTPRoute", "atlas"]["spec"]["rules"]
    assert sum(backend["weight"] for backend in rule["backendRefs"]) == 100
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1"]  # and not the live interface
    for backend in rule["backendRefs"]:
        service = found["Service", backend["name"]]
        assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
        pods = found["Deployment", backend["name"]]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= pods.items()


def test_a_roll_out_never_takes_a_server_away_before_another_is_ready() -> None:
    for track in ("stable", "canary"):
        spec = documents()["Deployment", f"atlas-{track}"]["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        shutdown = next(word for word in container(track)["args"] if word.startswith("--shutdown-timeout="))
        pause = int(container(track)["lifecycle"]["preStop"]["exec"]["command"][1])
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > pause + int(
            shutdown.partition("=")[2]
        )
