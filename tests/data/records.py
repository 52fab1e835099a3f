"""One record of each schema, and variants of them."""

from __future__ import annotations

from typing import Any

NATIVE = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon"}
COUNTERFACT = {
    "case_id": 18,
    "requested_rewrite": {
        "prompt": "{}, created by",
        "relation_id": "P176",
        "subject": "Porsche 911",
        "target_new": {"str": "Honda", "id": "Q9584"},
        "target_true": {"str": "Porsche", "id": "Q40993"},
    },
    "paraphrase_prompts": ["Porsche 911 is developed by"],
    "neighborhood_prompts": ["Porsche 550, developed by"],
    "attribute_prompts": ["Honda 70, produced by"],
}
ZSRE = {
    "subject": "Ramalinaceae",
    "src": "Which family does Ramalinaceae belong to?",
    "rephrase": "What family are Ramalinaceae?",
    "alt": "Lamiinae",
    "answers": ["Lecanorales", "Lichens"],
    "pred": "Ramalinales",
    "loc": "nq question: types of skiing in the winter olympics 2018",
    "loc_ans": "Downhill",
}


def native(**changes: Any) -> dict[str, Any]:
    """The native example with fields replaced; None takes a field away."""
    return {key: value for key, value in (NATIVE | changes).items() if value is not None}


def rewrite(**changes: Any) -> dict[str, Any]:
    return COUNTERFACT | {"requested_rewrite": COUNTERFACT["requested_rewrite"] | changes}  # type: ignore[operator]
