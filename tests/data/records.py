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
KNOWEDIT = {
    "subject": "Brocéliande",
    "prompt": "The name of the region which Brocéliande lies in is",
    "target_new": "Normandy",
    "ground_truth": "Brittany",
    "portability": {
        "Reasoning": [
            {"prompt": "The capital of the region which Brocéliande lies in is", "ground_truth": "Rouen"}
        ],
        "Subject_Aliasing": [
            {"prompt": "The region which Paimpont's forest lies in is", "ground_truth": [["Normandy", "N."]]}
        ],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The wizard who sleeps in Brocéliande is", "ground_truth": "Merlin"}
        ],
        "Forgetfulness": [
            {
                "prompt": "A region which Brocéliande lies in, not Normandy, is",
                "ground_truth": ["Brittany"],
            }
        ],
    },
}
QAEDIT = {
    "id": 7,
    "source": "NQ",
    "prompt": "who wrote the lais of marie?",
    "target": "Marie de France",
    "subject": "Lais of Marie",
    "rephrase": "Which author are the Lais of Marie by?",
    "locality": [
        {"loc": "how long is the rhine", "loc_ans": "1,230 km"},
        {"loc": "who was the first man in space", "loc_ans": "Yuri Gagarin"},
    ],
}
WIKIBIGEDIT = {
    "prompt": "In which department is the commune of Paimpont located?",
    "target_new": "Ille-et-Vilaine",
    "subject": "Paimpont",
    "rephrase_prompt": "Which department does Paimpont belong to?",
    "locality_prompt": "In which department is Huelgoat located?",
    "locality_ground_truth": "Finistère",
}
KNOWGIC = {
    "case_id": 3,
    "requested_rewrite": [
        {
            "prompt": "{} is married to",
            "target_new": {"str": "Tristan"},
            "target_true": {"str": "Mark"},
            "subject": "Iseult",
        }
    ],
    "chain": {
        "questions": ["Who is the nephew of Iseult's husband?", "Who is Tristan's uncle?"],
        "answers": ["Tristan", "Mark"],
        "prompts": ["{}'s husband's nephew is", "{}'s uncle is"],
        "subjects": ["Iseult", "Tristan"],
    },
    "broader_context": {"questions": [], "answers": [], "prompts": [], "subjects": []},
}


def native(**changes: Any) -> dict[str, Any]:
    """The native example with fields replaced; None takes a field away."""
    return {key: value for key, value in (NATIVE | changes).items() if value is not None}


def rewrite(**changes: Any) -> dict[str, Any]:
    return COUNTERFACT | {"requested_rewrite": COUNTERFACT["requested_rewrite"] | changes}  # type: ignore[operator]
