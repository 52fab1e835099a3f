"""The texts from which the scope gate learns subjects instead of wordings."""

from __future__ import annotations

from moe_patch.data.facts import Fact
from moe_patch.methods.memoe.scope import scope_texts

TEXTS = [f"The river of {name} is wide and {name} is old." for name in ("Ulm", "Bonn", "New York", "Kiel")]
FACTS = [Fact("a", "{} is in", "Bonn", "Oz"), Fact("b", "The lord of {} is", "Trier", "Kim")]


def test_what_mentions_a_subject_is_not_preserved() -> None:
    drawn = scope_texts(TEXTS, FACTS, preserved=10, variants=0, seed=0)
    assert len(drawn.preserved) == 3
    assert not any("Bonn" in text for text in drawn.preserved)
    assert all(any(text.startswith(kept) for text in TEXTS) for kept in drawn.preserved)


def test_subjects_and_other_names_change_places() -> None:
    drawn = scope_texts(TEXTS, FACTS, preserved=10, variants=3, seed=0)
    for fact, about, elsewhere in zip(FACTS, drawn.about, drawn.elsewhere, strict=True):
        assert len(about) == 3
        assert all(fact.subject in text for text in about)
        before, after = fact.prompt.split("{}")
        names = {text.removeprefix(before).removesuffix(after) for text in elsewhere}
        assert names == {"Ulm", "Kiel", "New York"}


def test_drawing_repeats_and_text_without_names_gives_none() -> None:
    first, second = (scope_texts(TEXTS, FACTS, preserved=2, variants=2, seed=1) for _ in range(2))
    assert first == second
    plain = scope_texts(["nothing with a name in it"], FACTS, preserved=2, variants=2, seed=1)
    assert plain.about == plain.elsewhere == ((), ())
