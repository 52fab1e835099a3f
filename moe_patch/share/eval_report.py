"""The scores of a patch as `moe-patch eval --json` prints them, read from a file and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_patch.data.schemas import FactSchema
from moe_patch.errors import ConfigError
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.reading import read_text
from moe_patch.patch.base_record import Sha256

_MAX_REPORT = 2**26  # bytes; a report holds every judgement of a judge

Percent = Annotated[float, Field(ge=0, le=100)]


class ReportedScore(ClosedSchema):
    """A percentage with its 95% interval, and the number of prompts; no value if there were none."""

    value: Percent | None
    interval: Annotated[list[Percent], Field(min_length=2, max_length=2)] | None
    n: Annotated[int, Field(ge=0)]


class _OpenSchema(BaseModel):
    """What a card uses of a report, which has more."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class GeneratedFigures(_OpenSchema):
    """The scores of one model on prompts that the base made."""

    generalization: ReportedScore
    specificity: ReportedScore
    utility: ReportedScore


class Figures(GeneratedFigures):
    """The scores of one model on the facts' own prompts."""

    efficacy: ReportedScore
    portability: ReportedScore
    generated: GeneratedFigures | None


class EvalReport(Figures):
    """The scores of the patched model, and of its base."""

    hash: Sha256  # of the patch
    fact_schema: FactSchema = Field(alias="schema")
    rule: Literal["counterfact", "zsre"]
    facts: Annotated[int, Field(ge=1)]
    locality: ReportedScore
    kept: ReportedScore
    base: Figures


def read_eval_report(path: Path, patch_hash: str) -> EvalReport:
    """Read the scores of a patch.

    Args:
        path: a file with what `moe-patch eval --json` printed.
        patch_hash: of the patch that the scores should be of.

    Raises:
        ConfigError: the file cannot be read, is no such report, or is one of another patch.
    """
    try:
        report = EvalReport.model_validate(strict_json.parse_json(read_text(path, _MAX_REPORT)))
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no report of `moe-patch eval --json`: {strict_json.first_complaint(error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no report of `moe-patch eval --json`: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if report.hash != patch_hash:
        raise ConfigError(
            f"{path} has the scores of the patch {report.hash}, and this is {patch_hash}: evaluate this one"
        )
    return report
