"""The model card of a patch on the Hub: its README, with metadata in the form that the Hub reads.

Much of a card comes from the patch, and so from a stranger. What a patch says freely stands in tables, as
plain text. Metadata and commands hold only names whose form was checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData

from moe_patch.errors import ConfigError
from moe_patch.io.plain_text import plain_markdown
from moe_patch.io.shipped import DEMO
from moe_patch.io.wording import counted
from moe_patch.patch import Patch
from moe_patch.patch.shown import changes
from moe_patch.share.card_usage import usage
from moe_patch.share.eval_report import EvalReport, ReportedScore
from moe_patch.stack.untaken import share_taken

EXAMPLES = 5
"""The most facts that a card shows."""

_LONGEST = 200  # characters of a text from the patch
_MODEL = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")

_LEGEND = (
    "Efficacy is about the facts' own prompts, generalization about other wordings, specificity about those "
    "whose answers must not change; utility is the mean of the three. Locality and kept count answers that "
    "stayed as they were, portability what follows from the facts. The base itself made generated prompts."
)

_Row = tuple[str, ReportedScore, ReportedScore | None]
"""A score's name, that of the patched model, and that of its base."""


def model_card(
    patch: Patch,
    reference: str,
    *,
    base_model: str | None = None,
    license_id: str | None = None,
    report: EvalReport | None = None,
) -> str:
    """The README of a patch's repository.

    Args:
        patch: the patch.
        reference: where it is pulled from, `hf://org/name[/file.safetensors][@branch]`.
        base_model: the name of the base on the Hub, or the demo model's.
        license_id: as the Hub names licences; None says that none was given.
        report: the scores of an evaluation; None shows what the patch stores of its build.

    Raises:
        ConfigError: `base_model` or `license_id` has a form that no name on the Hub has.
    """
    _check_names(base_model, license_id)
    name = re.split("[/@]", reference.removeprefix("hf://"))[1]
    text = "\n\n".join(
        (
            f"---\n{_metadata(patch, name, base_model, license_id, report)}\n---",
            f"# {plain_markdown(name)}",
            "A patch changes what a language model says about some facts. It is put on a model, its base.",
            f"## What it changes\n\n{_facts(patch)}",
            f"## Scores\n\n{_scores(patch, report)}",
            f"## Licence\n\n{_license(license_id)}",
            f"## Base\n\n{_base(patch, base_model)}",
            usage(patch.kind, reference, base_model),
        )
    )
    return f"{text}\n\n{_mark(text)}\n"


def is_untouched_card(text: str) -> bool:
    """Whether a README was written by `model_card`, and by nobody after it."""
    written, _, mark = text.rstrip().rpartition("\n\n")
    return mark == _mark(written)


def _mark(text: str) -> str:
    """The last line of a card: a comment that holds only as long as the card is as it was written."""
    return f"<!-- moe-patch card {hashlib.sha256(text.encode()).hexdigest()} -->"


def _check_names(base_model: str | None, license_id: str | None) -> None:
    if base_model is not None and _MODEL.fullmatch(base_model) is None:
        raise ConfigError(f"--base-model: {base_model!r} is no name on the Hub: expected owner/name")
    if license_id is not None and _LICENSE.fullmatch(license_id) is None:
        raise ConfigError(
            f"--license: {license_id!r} is no licence of the Hub: expected an identifier such as apache-2.0"
        )


def _metadata(
    patch: Patch, name: str, base_model: str | None, license_id: str | None, report: EvalReport | None
) -> str:
    """The card's YAML. The demo model is not on the Hub, which would link its name to another model."""
    in_hub = None if base_model == DEMO else base_model
    results = _results(patch, report)
    data = ModelCardData(
        base_model=in_hub,
        base_model_relation=None if in_hub is None else "adapter",
        library_name="moe-patch",
        license=license_id,
        tags=["moe-patch", "knowledge-editing", patch.kind],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _results(patch: Patch, report: EvalReport | None) -> list[EvalResult]:
    """The scores of the patched model for the Hub's index; those of the base are not its own."""
    if report is not None:
        schema, facts = report.fact_schema, report.facts
        found = {title: score.value for title, score, _ in _rows(report)}
    else:
        schema, facts, taken = patch.schema, len(patch.facts), share_taken(patch)
        found = {"taken": None if taken is None else 100 * taken}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=schema,
            dataset_name=counted(facts, f"{schema} fact"),
            metric_type=re.sub(r"\W+", "_", title).strip("_"),
            metric_name=title,
            metric_value=round(value, 2),
        )
        for title, value in found.items()
        if value is not None
    ]


def _rows(report: EvalReport) -> list[_Row]:
    """The scores that have a value."""
    base = report.base
    rows: list[_Row] = [
        ("efficacy", report.efficacy, base.efficacy),
        ("generalization", report.generalization, base.generalization),
        ("specificity", report.specificity, base.specificity),
        ("utility", report.utility, base.utility),
    ]
    if report.generated is not None and base.generated is not None:
        ours, theirs = report.generated, base.generated
        rows += [
            ("generalization (generated)", ours.generalization, theirs.generalization),
            ("specificity (generated)", ours.specificity, theirs.specificity),
            ("utility (generated)", ours.utility, theirs.utility),
        ]
    rows += [
        ("portability", report.portability, base.portability),
        ("locality", report.locality, None),
        ("kept", report.kept, None),
    ]
    return [row for row in rows if row[1].value is not None]


def _scores(patch: Patch, report: EvalReport | None) -> str:
    if report is not None:
        rows = [
            (title, _percent(ours), _interval(ours), "" if base is None else _percent(base), str(ours.n))
            for title, ours, base in _rows(report)
        ]
        facts = counted(report.facts, f"{report.fact_schema} fact")
        return (
            f"Percent on {facts} by the {report.rule} rule. Whoever published the patch measured them with "
            "`moe-patch eval`, and the base in the same run.\n\n"
            f"{_table(('', 'patched', '95% interval', 'base', 'prompts'), rows)}\n\n{_LEGEND}"
        )
    taken = share_taken(patch)
    if taken is None:
        return "None were given, and the patch stores none of its build."
    return (
        "No evaluation was given. When the patch was built, the model gave the whole new answer to "
        f"{taken:.1%} of its facts. The patch does not store what the base says to them."
    )


def _percent(score: ReportedScore) -> str:
    return "-" if score.value is None else f"{score.value:.1f}"


def _interval(score: ReportedScore) -> str:
    return "-" if score.interval is None else f"{score.interval[0]:.1f} to {score.interval[1]:.1f}"


def _facts(patch: Patch) -> str:
    """How many facts, how they are changed, and the first of them."""
    how = f"{counted(len(patch.facts), 'fact')}, by a change of {changes(patch.kind, patch.layers)}."
    if not patch.facts:
        return how
    rows = [(fact.text, fact.target_true or "", fact.target_new) for fact in patch.facts[:EXAMPLES]]
    first = f" The first {EXAMPLES}:" if len(patch.facts) > EXAMPLES else ""
    return f"{how}{first}\n\n{_table(('prompt', 'answer before', 'new answer'), rows)}"


def _license(license_id: str | None) -> str:
    if license_id is None:
        return "None was given: ask the owner before you use the patch. The base has its own."
    return f"`{license_id}`, for the patch. The base has its own."


def _base(patch: Patch, base_model: str | None) -> str:
    """What identifies the base, and the patch."""
    base = patch.base
    rows = [
        ("name", base_model or "not given"),
        ("type", base.model_type),
        ("config", base.config),
        *([("fingerprint", base.root)] if base.nodes else []),  # which covers no weights in format 1
        ("hash of the patch", patch.hash),
        ("method", f"{patch.method} ({patch.kind})"),
        ("built", patch.created),
    ]
    text = "The patch fits one base, and `moe-patch verify` says whether yours is this one."
    return f"{text}\n\n{_table(('', ''), rows)}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown, whose cells are plain text."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[plain_markdown(cell, _LONGEST) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
