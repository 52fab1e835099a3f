"""What became of every type of model, as it was written down, and the tables of it in the README."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tests.architectures.configs import NEEDS_PACKAGE
from tests.architectures.journey import Outcome

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- made by `make models` -->", "<!-- end -->"
_CUT = " cannot be edited: "


def read_results() -> tuple[str, dict[str, Outcome]]:
    """The release of transformers, and the outcome of each type."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    return stored["transformers"], {name: Outcome(**fields) for name, fields in stored["types"].items()}


def write_results(release: str, outcomes: Mapping[str, Outcome]) -> None:
    """Store the outcomes, and put their table into the README."""
    types = {name: asdict(outcome) for name, outcome in outcomes.items()}
    stored = json.dumps({"transformers": release, "types": types}, indent=1)
    STORED.write_text(stored + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{table(release, outcomes)}\n{END}{after}", encoding="utf-8")


def table(release: str, outcomes: Mapping[str, Outcome]) -> str:
    """The outcomes as Markdown."""
    edited: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    for name, outcome in sorted(outcomes.items()):
        alone, _, text = name.partition(" with ")
        if outcome.refusal is not None:
            refused[outcome.refusal.rpartition(_CUT)[2]].append(f"`{alone}`")
        elif text:
            edited["composites, with the text model that they were tried with"].append(f"`{alone}` ({text})")
        elif outcome.warning is not None:
            edited["edited, with a warning: " + outcome.warning].append(f"`{alone}`")
        else:
            edited["edited"].append(f"`{alone}`")
    lines = [f"| transformers {release} | model types |", "|---|---|"]
    lines += [f"| {what} | {', '.join(names)} |" for what, names in sorted(edited.items(), key=_size)]
    lines += [f"| refused: {why} | {', '.join(names)} |" for why, names in sorted(refused.items(), key=_size)]
    untried = ", ".join(f"`{name}` ({package})" for name, package in sorted(NEEDS_PACKAGE.items()))
    return "\n".join([*lines, f"| not tried: images need another package | {untried} |"])


def _size(row: tuple[str, list[str]]) -> tuple[int, str]:
    return -len(row[1]), row[0]
