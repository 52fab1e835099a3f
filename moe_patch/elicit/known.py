"""Facts that a base knows, found by asking itself.

The base writes sentences. In each, a subject is looked for (words that it finds hard to guess), and behind it
an answer that it finds easy to guess. They are a fact if the answer belongs to the subject: the base gives it
to the prompt with this subject, and other answers to the prompt with the subjects of other sentences. One of
these others is what an edit can change the fact to.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.base.occupied import find_occupant
from moe_patch.data.facts import Fact, FactRecord, fact_json
from moe_patch.data.prompts import Prompt, pad_right, pad_token
from moe_patch.data.text import comparable, prompt_text
from moe_patch.elicit.slots import LONGEST, Candidate, Usage, candidates
from moe_patch.elicit.statements import Statement, is_mark, read_statements, write_sentences
from moe_patch.io import cache
from moe_patch.progress import Progress

_ROUNDS = 16  # of writing, before no more facts are looked for
_TEXTS = 32  # written in a round
_CANDIDATES = 16  # confirmed at once
_ROWS = 64  # prompts in a pass
_TOKENS = 48  # of a text
_OTHERS = 3  # other subjects that a prompt is tried with
_MORE = 4  # tokens of a reply beyond those of the answer


def known_facts(
    base: Base, count: int, *, seed: int = 0, progress: Progress | None = None
) -> tuple[Fact, ...]:
    """At most `count` facts that the base knows, the same ones every time; fewer if too few are found.

    `target_true` is what the base says, and `target_new` what it says of another subject in the same prompt.
    No subject occurs twice. Fewer facts are the first of more. Those of a bare base are kept in the cache,
    where who asks for fewer finds them, or for more than there are.

    Args:
        base: the model, as it is now.
        count: how many facts.
        seed: of the sentences that it writes.
        progress: called with the stage "known facts".

    Raises:
        NumericalError: the logits hold NaN or an infinity.
    """
    if find_occupant(base) is not None:
        return _search(base, count, seed, progress)
    address = {"version": 3, "base": base.fingerprint([]).address(), "seed": seed}
    if (stored := cache.load_tensors("known", address)) is not None:
        records = json.loads(bytes(stored["facts"].tolist()))
        if len(records) >= count or len(records) < int(stored["asked"]):
            return tuple(FactRecord.model_validate(record).fact() for record in records[:count])
    found = _search(base, count, seed, progress)
    text = json.dumps([fact_json(fact) for fact in found]).encode()
    facts = torch.tensor(list(text), dtype=torch.uint8)
    cache.store_tensors("known", address, {"facts": facts, "asked": torch.tensor(count)})
    return found


def _search(base: Base, count: int, seed: int, progress: Progress | None) -> tuple[Fact, ...]:
    facts: dict[str, Fact] = {}  # by subject
    tried: set[Candidate] = set()
    subjects: dict[str, None] = {}  # in their order
    said: list[Statement] = []
    chance = random.Random(seed)
    for attempt in range(_ROUNDS):
        written = write_sentences(base, _TEXTS, _TOKENS, seed * _ROUNDS + attempt)
        if not written:  # nor will it write any sentence the next time
            break
        statements = read_statements(base, written)
        said += statements
        usage = Usage.of(said)
        fresh = {found: None for one in statements for found in candidates(one, usage) if found not in tried}
        tried.update(fresh)
        subjects |= {found.subject: None for found in fresh}
        for some in _chunks([*fresh], _CANDIDATES):
            new = [found for found in some if comparable(found.subject) not in facts]
            for fact in _confirmed(base, new, [*subjects], chance):
                facts.setdefault(comparable(fact.subject), fact)
            if progress is not None:
                progress("known facts", min(len(facts), count), count)
            if len(facts) >= count:
                return tuple(facts.values())[:count]
    if progress is not None:
        progress("known facts", count, count)
    return tuple(facts.values())


def _chunks(found: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    for first in range(0, len(found), size):
        yield found[first : first + size]


def _confirmed(
    base: Base, some: Sequence[Candidate], subjects: Sequence[str], chance: random.Random
) -> Iterator[Fact]:
    """The facts among candidates: the base answers otherwise for most of a few other subjects."""
    asked = []
    for found in some:
        names = [name for name in subjects if name != found.subject]
        asked += [(found, name) for name in chance.sample(names, min(_OTHERS, len(names)))]
    other: dict[Candidate, list[tuple[float, str]]] = {}
    for (found, name), (same, sure) in zip(asked, _first_tokens(base, asked), strict=True):
        if not same:
            other.setdefault(found, []).append((sure, name))
    kept = [(found, max(names)[1]) for found, names in other.items() if 2 * len(names) > _OTHERS]
    own = _replies(base, [(found, found.subject) for found, _ in kept])
    new = _replies(base, [(found, name) for found, name in kept])
    for (found, _), (said, expected), (other_said, _) in zip(kept, own, new, strict=True):
        phrase = _phrase(str(base.tokenizer.decode(other_said, skip_special_tokens=True)), found.answer)
        differs = phrase.split()[:1] not in ([], found.answer.split()[:1])
        if said[: len(expected)] == expected and differs:
            yield FactRecord(
                prompt=found.prompt, subject=found.subject, target_new=phrase, target_true=found.answer
            ).fact()


@torch.no_grad()
def _first_tokens(base: Base, asked: Sequence[tuple[Candidate, str]]) -> list[tuple[bool, float]]:
    """Of each prompt about a subject: whether the first token of the answer's own characters is the likeliest
    one, and how likely the likeliest is.
    """
    found: list[tuple[bool, float]] = []
    for first in range(0, len(asked), _ROWS):
        before, own = zip(*(_first_token(base, *one) for one in asked[first : first + _ROWS]), strict=True)
        batch = pad_right([Prompt(ids, 0) for ids in before], pad_token(base.tokenizer)).to(base.device)
        last, column = torch.tensor([len(ids) - 1 for ids in before]).unique(return_inverse=True)
        logits = base.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            logits_to_keep=last.to(base.device),
            use_cache=False,
        ).logits  # (B, C, V)
        scores: Tensor = logits[torch.arange(len(own)), column].float().softmax(-1)  # (B, V)
        sure, likeliest = scores.max(-1)
        found += zip((likeliest.cpu() == torch.tensor(own)).tolist(), sure.tolist(), strict=True)
    return found


def _first_token(base: Base, each: Candidate, name: str) -> tuple[tuple[int, ...], int]:
    """The first token with a character of the answer that is no space, and the tokens before it."""
    prompt = prompt_text(each.about(name))
    reading = base.reader.read_answer(prompt, each.answer, chat=False)
    own = range(reading.first, len(reading.ids))
    at = next(i for i in own if reading.spans[i][1] > len(prompt) + 1)
    return reading.ids[:at], reading.ids[at]


def _replies(
    base: Base, asked: Sequence[tuple[Candidate, str]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What the base says greedily of each subject, a few tokens longer than the answer; and the answer."""
    replies = []
    for first in range(0, len(asked), _ROWS):
        some = [
            base.reader.read_answer(each.about(name), each.answer, chat=False)
            for each, name in asked[first : first + _ROWS]
        ]
        length = max(len(reading.answer) for reading in some) + _MORE
        tails = continue_rows(base, [reading.prompt for reading in some], length)
        replies += [(tail, reading.answer) for reading, tail in zip(some, tails, strict=True)]
    return replies


def _phrase(text: str, answer: str) -> str:
    """The words of a text up to the first mark behind one; if it has too many, those like the answer's."""
    found: list[str] = []
    for word in text.split():
        bare = word.rstrip("".join(filter(is_mark, word)))
        found.append(bare)
        if bare != word:
            break
    else:
        found = found[: len(answer.split())]
    if len(found) > LONGEST:
        found = found[: len(answer.split())]
    alike = takewhile(lambda word: word[:1].isupper() == answer[0].isupper(), found)
    return comparable(" ".join(alike))
