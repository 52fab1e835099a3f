"""The facts of a patch that did not take, by the results of its build, and why that may be.

A fact has taken if the model gives the whole new answer by greedy decoding. Nothing here needs the model:
what it says was measured at the end of the build, and the reasons are in the patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from moe_patch.data.facts import Fact
from moe_patch.patch import Patch
from moe_patch.patch.rows import row_energy, select_rows
from moe_patch.solve.algebra import edit_kernel

ALIKE = 0.9
"""Facts whose keys have a larger cosine than this get nearly the same change."""

TIGHT = 0.01
"""Facts with less of their keys' energy left than this have hardly any direction to be edited in."""

_SAID = math.log(2)  # nats a token; an answer with less is likelier, token by token, than all others together


@dataclass(frozen=True, slots=True)
class Untaken:
    """A fact that the patched model does not say."""

    fact: Fact
    says: str | None  # what it says instead
    loss: float | None  # of the new answer, in nats a token
    reasons: tuple[str, ...]  # likely ones, the most likely first


def share_taken(patch: Patch) -> float | None:
    """The share of facts that took, from 0 to 1; None if the patch does not say of every fact."""
    said = [result.get("taken") for result in patch.results]
    return sum(map(bool, said)) / len(said) if said and all(isinstance(one, bool) for one in said) else None


def untaken_facts(patch: Patch) -> list[Untaken]:
    """The facts that did not take, in the patch's order; empty if the patch does not say."""
    missed = [number for number, result in enumerate(patch.results) if result.get("taken") is False]
    alike = _most_alike(patch, missed)
    return [
        Untaken(
            fact=patch.facts[number],
            says=_text(patch.results[number].get("says")),
            loss=_number(patch.results[number].get("loss_edited")),
            reasons=tuple(_reasons(patch, number, alike.get(number))),
        )
        for number in missed
    ]


def _reasons(patch: Patch, number: int, alike: tuple[int, float] | None) -> Iterator[str]:
    fact, result = patch.facts[number], patch.results[number]
    if fact.text.strip() == fact.subject.strip():
        yield "the prompt is the subject alone, so nothing is left to say after the edited token"
    shared = result.get("shared_with")
    company = [str(one) for one in shared] if isinstance(shared, list) else []
    if company:
        yield f"it shares its change with {', '.join(company)}: they are about one subject"
    unseen = [layer for layer, delta in patch.layers.items() if number not in delta.fact_rows.fact]
    if unseen:
        yield (
            f"preserved text hardly reaches its experts in layer {', '.join(map(str, unseen))}, so they are "
            "protected: give more text, or choose --unseen edit"
        )
    if alike is not None and patch.facts[alike[0]].id not in company:
        yield f"its keys are nearly those of {patch.facts[alike[0]].id} (cosine {alike[1]:.2f})"
    target, own = _number(result.get("loss_target")), _number(result.get("loss_expert"))
    if target is not None and target > _SAID:
        yield f"no target value was found (its loss is {target:.2g}): {_remedy(result.get('ended'))}"
    if own is not None:
        yield (
            "its expert has not learned it: train for more steps"
            if own > _SAID
            else "the router sends its prompt past its expert"
        )
    room = _number(result.get("room"))
    tight = room is not None and 0.0 < room < TIGHT
    if tight:
        yield (
            f"preserved text uses nearly all directions of its keys ({room:.1%} is left): protect less "
            "(a lower --set energy=), or edit other layers"
        )
    if patch.kind == "delta" and target is not None and target <= _SAID and not unseen and not tight:
        yield "the layers do not reach its target value: lower lambda (--ridge), or edit more layers"


def _remedy(ended: JsonValue) -> str:
    """What to do about a search for a target value that ended in this way."""
    if ended == "clamp":
        return "raise targets.clamp, or edit a lower layer"
    if ended == "stalled":
        return "lower targets.learning_rate"
    return "raise targets.steps or targets.clamp"


def _most_alike(patch: Patch, missed: list[int]) -> dict[int, tuple[int, float]]:
    """For each missed fact the fact with the most similar keys, and their cosine, if it is above `ALIKE`."""
    if not patch.layers or not missed:
        return {}
    rows = patch.layers[max(patch.layers)].fact_rows
    norm = row_energy(rows).sqrt()  # (T,)
    chosen = torch.tensor(missed)
    cosine = edit_kernel(select_rows(rows, chosen), rows) / (norm[chosen, None] * norm).clamp_min(1e-30)
    cosine[torch.arange(len(missed)), chosen] = 0.0  # (U, T)
    largest, other = cosine.max(dim=1)
    return {
        number: (int(other[i]), float(largest[i]))
        for i, number in enumerate(missed)
        if float(largest[i]) > ALIKE
    }


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
