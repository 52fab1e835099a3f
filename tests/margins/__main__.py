"""Run the quality tests under several settings of the processor, and write how far values are from bounds.

python -m tests.margins [--out docs/margins.md] [-- what pytest takes]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
import transformers

from tests.margins import SETTINGS

ROOT = Path(__file__).parents[2]
PROCESSORS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
}
THREADS = (1, 2, 4)
THIN = 0.1

HEADING = """\
# How far values are from their bounds

Written by `make margins`. It runs the tests that are marked `quality`, which hold what was trained or
searched to bounds, under four settings of the processor and each with 1, 2 and 4 threads:

{settings}

A cell has the lowest and the highest value over the numbers of threads. The distance is the smallest one
over all settings, also as a share of the bound; under {thin:.0%} it is **bold**. Tests of serving, which need
vLLM, are not here.

Run with torch {torch}, transformers {transformers} and {capability}, {outcome}.
"""


def run(settings: dict[str, str], record: Path, more: Sequence[str]) -> str:
    """Run the quality tests under these settings, and return pytest's last line."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "quality", "-p", "no:cacheprovider", *more]
    done = subprocess.run(
        command,
        cwd=ROOT,
        # threads that wait must not spin: there may be more of them than cores
        env={**environment, **settings, "MOE_PATCH_MARGINS": str(record), "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        click.echo(done.stdout + done.stderr, err=True)
    return done.stdout.strip().rpartition("\n")[2]


def shown(settings: dict[str, str]) -> str:
    """The settings as they are set in a shell."""
    return " ".join(f"`{name}={value}`" for name, value in settings.items()) or "nothing is set"


def processor_of(settings: dict[str, str]) -> str:
    """The name of the processor's settings, however many threads there were."""
    own = {name: value for name, value in settings.items() if name != "MOE_PATCH_TEST_THREADS"}
    return next(name for name, wanted in PROCESSORS.items() if wanted == own)


def distance(line: dict[str, Any]) -> float:
    """How far the value is on the right side of its bound."""
    return (line["value"] - line["bound"]) * (1 if line["way"] == "at least" else -1)


def share(line: dict[str, Any]) -> float:
    """The distance as a share of the bound."""
    return distance(line) / abs(line["bound"]) if line["bound"] else float("inf")


def row(lines: list[dict[str, Any]]) -> str:
    """One bound's row of the table."""
    closest = min(lines, key=distance)
    cells = []
    for processor in PROCESSORS:
        values = [line["value"] for line in lines if processor_of(line["settings"]) == processor]
        ends = [f"{end:.4g}" for end in (min(values), max(values))] if values else []
        cells.append(" to ".join(dict.fromkeys(ends)))
    far = f"{distance(closest):.3g} ({share(closest):.0%})"
    far = f"**{far}**" if share(closest) < THIN else far
    bound = f"{closest['way']} {closest['bound']:.4g}"
    return "| " + " | ".join([closest["name"], bound, *cells, far]) + " |"


def table(lines: Iterable[dict[str, Any]]) -> str:
    """All bounds, file by file and in the tests' order."""
    files: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        file, _, test = line["test"].partition("::")
        files[file][test, line["name"]].append(line)
    parts = []
    for file, bounds in sorted(files.items()):
        parts.append(f"\n## `{file}`\n\n| value | bound | {' | '.join(PROCESSORS)} | distance |")
        parts.append("|---|---|" + "---|" * (len(PROCESSORS) + 1))
        test = ""
        for (now, _), found in bounds.items():
            if now != test:
                parts.append(f"| *{now.removeprefix('test_').replace('_', ' ')}* |" + " |" * 6)
                test = now
            parts.append(row(found))
    return "\n".join(parts) + "\n"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "margins.md")
@click.argument("more", nargs=-1)
def main(out: Path, more: tuple[str, ...]) -> None:
    """Write the table; MORE goes to pytest. The exit status is 1 if tests failed under any settings."""
    outcomes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "margins.jsonl"
        record.touch()
        for name, settings in PROCESSORS.items():
            for threads in THREADS:
                chosen = {**settings, "MOE_PATCH_TEST_THREADS": str(threads)}
                key = f"{name}, {threads} threads"
                outcomes[key] = run(chosen, record, more)
                click.echo(f"{key}: {outcomes[key]}")
        lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    failed = [key for key, told in outcomes.items() if "passed" not in told or "failed" in told]
    heading = HEADING.format(
        settings="\n".join(f"- {name}: {shown(settings)}" for name, settings in PROCESSORS.items()),
        thin=THIN,
        torch=torch.__version__,
        transformers=transformers.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        outcome=f"where tests failed with {'; '.join(failed)}" if failed else "where all passed",
    )
    out.write_text(heading + table(lines), encoding="utf-8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
