"""The expected results of the self-test: values that ship with the demo model, with their tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from moe_patch.doctor.report import SelfTestCheck, Values
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.shipped import shipped_folder


class Expected(ClosedSchema):
    """Stored values of one check. Texts must be equal; numbers must be within the tolerance."""

    values: list[str] | list[float]
    tolerance: float


class SelfTestReference(BaseModel):
    """Stored values by name of the check, and the releases that they were computed with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_with: dict[str, str]
    checks: dict[str, Expected]

    def compare(self, found: Mapping[str, Values]) -> tuple[SelfTestCheck, ...]:
        """Compare the found values with the stored ones, one check for each name."""
        return tuple(
            SelfTestCheck(name, found[name], expected.values, expected.tolerance)
            for name, expected in self.checks.items()
        )


def reference_file() -> Path:
    """The path of the stored values; `python -m recipes.training.reference` writes them."""
    return shipped_folder() / "atlas" / "reference.json"


def stored_reference() -> SelfTestReference:
    """Read the stored values that ship with the package."""
    return SelfTestReference.model_validate_json(reference_file().read_text(encoding="utf-8"))
