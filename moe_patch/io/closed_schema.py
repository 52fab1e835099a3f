"""What schemas of files and requests have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ClosedSchema(BaseModel):
    """Takes no unknown field and converts no type, and what was read stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
