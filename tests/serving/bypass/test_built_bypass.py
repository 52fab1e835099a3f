"""A bypass as `--method memoe` trains it, in a real engine: what its facts' prompts get, and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.data.fact_file import read_facts
from moe_patch.methods import get_method
from moe_patch.patch import Patch
from moe_patch_serving.api.self_test import DEFAULT
from tests.margins import at_least
from tests.serving.bypasses import expected, serve
from tests.serving.engines import base, greedy

RECIPES = Path(__file__).parents[3] / "recipes"
FACTS = read_facts(RECIPES / "facts" / "10.jsonl").facts[:6]


@pytest.fixture(scope="session")
def built() -> Patch:
    """Six facts about the demo model's world, in a short training."""
    method = get_method("memoe")
    settings = {"layer": 1, "steps": 40, "learning_rate": 0.01, "experts": 3, "preserved": 128, "variants": 4}
    return method.build(
        base("atlas"), FACTS, method.options(corpus=RECIPES / "atlas" / "corpus.txt", **settings)
    )


def tokens_of(texts: list[str]) -> list[list[int]]:
    return [base("atlas").tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.quality
def test_each_prompt_gets_the_tokens_of_transformers(built: Patch, tmp_path: Path) -> None:
    questions = DEFAULT.questions(base("atlas").reader, built)
    edited = [list(question.prompt) for question in questions]
    reworded = tokens_of([prompt for fact in FACTS for prompt in fact.paraphrases[:2]])
    outside = tokens_of([prompt for fact in FACTS for prompt in fact.neighborhood[:2]])
    engine = serve("atlas", built, tmp_path, enable_chunked_prefill=False)
    everything = [*edited, *reworded, *outside]
    found = engine.greedy(everything)
    assert found == expected("atlas", built, everything)
    right = [tuple(a[: len(q.wanted)]) == q.wanted for a, q in zip(found, questions, strict=False)]
    at_least(f"facts that are said, of {len(right)}", sum(right), 5)
    alone = [a == b for a, b in zip(found[-len(outside) :], greedy(base("atlas"), outside), strict=True)]
    at_least(f"neighbours that are left alone, of {len(alone)}", sum(alone), 10)
