"""Records of published data sets, and the facts that they stand for.

Each class states the fields that are used here; others are ignored. `names` gives the fields of a fact the
names that they have in the record, for messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Annotated, ClassVar, TypedDict

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from moe_patch.data.facts import SLOT, Fact, FactRecord, ImplicationRecord
from moe_patch.data.text import phrase_text, prompt_text
from moe_patch.errors import FactError


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _first_spelling(value: object) -> object:
    while isinstance(value, list) and value:  # KnowEdit nests them
        value = value[0]
    return value


Texts = Annotated[list[str], BeforeValidator(_as_list)]
"""One text or several."""

Answer = Annotated[str, BeforeValidator(_first_spelling)]
"""An answer, the first of its spellings if there are several."""


class Published(BaseModel):
    """A record of a published data set."""

    model_config = ConfigDict(strict=True)

    names: ClassVar[Mapping[str, str]]

    def fact(self) -> Fact:
        """The fact that the record stands for.

        Raises:
            FactError: the record is not a valid fact. The error names the field of the fact.
        """
        return self._record().fact()

    def _record(self) -> FactRecord:
        """The fact in the native form, with the names of the native fields."""
        raise NotImplementedError


class _Text(BaseModel):
    model_config = ConfigDict(strict=True)
    text: str = Field(alias="str")


class _Rewrite(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt: str
    subject: str
    target_new: _Text
    target_true: _Text | None = None

    def record(self, case: int | str) -> FactRecord:
        return FactRecord(
            id=str(case),
            prompt=self.prompt,
            subject=self.subject,
            target_new=self.target_new.text,
            target_true=self.target_true.text if self.target_true else None,
        )


class CounterfactRecord(Published):
    """COUNTERFACT (ROME, arXiv 2202.05262): the neighborhood prompts share their answer, `target_true`."""

    names = {
        "id": "case_id",
        "prompt": "requested_rewrite.prompt",
        "subject": "requested_rewrite.subject",
        "target_new": "requested_rewrite.target_new.str",
        "target_true": "requested_rewrite.target_true.str",
        "paraphrases": "paraphrase_prompts",
        "neighborhood": "neighborhood_prompts",
    }
    case_id: int | str
    requested_rewrite: _Rewrite
    paraphrase_prompts: list[str] = []
    neighborhood_prompts: list[str] = []

    def _record(self) -> FactRecord:
        prompts = {"paraphrases": self.paraphrase_prompts, "neighborhood": self.neighborhood_prompts}
        return self.requested_rewrite.record(self.case_id).model_copy(update=prompts)


class _Links(BaseModel):
    """The links of a chain, field by field. They are asked as the edit is, by a prompt to go on with."""

    model_config = ConfigDict(strict=True)
    prompts: Annotated[list[str], Field(min_length=1)]
    subjects: list[str]
    answers: list[str]

    @model_validator(mode="after")
    def _complete(self) -> _Links:
        if not len(self.prompts) == len(self.subjects) == len(self.answers):
            raise ValueError("expected as many subjects and answers as prompts")
        return self

    def links(self) -> list[ImplicationRecord]:
        parts = zip(self.prompts, self.subjects, self.answers, strict=True)
        return [
            ImplicationRecord(prompt=prompt.replace(SLOT, phrase_text(subject), 1), answer=answer)
            for prompt, subject, answer in parts
        ]


class KnowgicRecord(Published):
    """KnowGIC (ThinkEval, arXiv 2506.01386): an edit, and a chain of facts from which its old answer follows.

    An edit with several chains has several records.
    """

    names = {
        "id": "case_id",
        "prompt": "requested_rewrite.0.prompt",
        "subject": "requested_rewrite.0.subject",
        "target_new": "requested_rewrite.0.target_new.str",
        "target_true": "requested_rewrite.0.target_true.str",
        "chains": "chain",
    }
    case_id: int | str
    requested_rewrite: Annotated[list[_Rewrite], Field(min_length=1, max_length=1)]
    chain: _Links | None = None

    def _record(self) -> FactRecord:
        chains = [self.chain.links()] if self.chain else []
        return self.requested_rewrite[0].record(self.case_id).model_copy(update={"chains": chains})


class _Hop(BaseModel):
    model_config = ConfigDict(strict=True)
    question: str = Field(alias="New Question")
    answer: str = Field(alias="New Answer")


class _Zsre(Published):
    """ZsRE (MEND, arXiv 2110.11309): a question with answers, another answer, and an unrelated question."""

    subject: str
    src: str
    rephrase: Texts = []
    loc: Texts = []
    loc_ans: Texts = []


class ZsreAltRecord(_Zsre):
    """ZsRE as EasyEdit and MEMoE edit it: to `alt`, which is not true."""

    names = {
        "prompt": "src",
        "target_new": "alt",
        "target_true": "answers.0",
        "paraphrases": "rephrase",
        "neighborhood": "loc",
        "neighborhood_answers": "loc_ans",
    }
    alt: str
    answers: list[str] = []
    portability: _Hop | None = None  # in EasyEdit's copy; its answer follows from `alt`

    def _record(self) -> FactRecord:
        hops = [self.portability] if self.portability else []
        return FactRecord(
            **_sentence(self.src, self.subject),
            target_new=self.alt,
            target_true=self.answers[0] if self.answers else None,
            paraphrases=self.rephrase,
            neighborhood=self.loc,
            neighborhood_answers=self.loc_ans,
            portability=[ImplicationRecord(prompt=hop.question, answer=hop.answer) for hop in hops],
        )


class ZsreAnswersRecord(_Zsre):
    """ZsRE as MEMIT and MoEEdit edit it: to the true answer, which the model may not know.

    They ask `loc`, a question without its mark, with one.
    """

    names = ZsreAltRecord.names | {"target_new": "answers.0"}
    answers: Annotated[list[str], Field(min_length=1)]

    def _record(self) -> FactRecord:
        return FactRecord(
            **_sentence(self.src, self.subject),
            target_new=self.answers[0],
            paraphrases=self.rephrase,
            neighborhood=[f"{question.rstrip().removesuffix('?')}?" for question in self.loc],
            neighborhood_answers=self.loc_ans,
        )


class _Known(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt: str
    ground_truth: Answer


class KnowEditRecord(Published):
    """KnowEdit (arXiv 2401.01286): locality and portability in groups, which are not told apart here."""

    names = {
        "target_true": "ground_truth",
        "paraphrases": "rephrase_prompt",
        "neighborhood": "locality",
        "neighborhood_answers": "locality",
    }
    subject: str
    prompt: str
    target_new: Answer
    ground_truth: Answer | None = None
    paraphrases: Texts = Field(default=[], validation_alias=AliasChoices("rephrase_prompt", "rephrase"))
    locality: dict[str, list[_Known]] = {}
    portability: dict[str, list[_Known]] = {}

    def _record(self) -> FactRecord:
        local = list(chain.from_iterable(self.locality.values()))
        implied = chain.from_iterable(self.portability.values())
        return FactRecord(
            **_sentence(self.prompt, self.subject),
            target_new=self.target_new,
            target_true=self.ground_truth,
            paraphrases=self.paraphrases,
            neighborhood=[known.prompt for known in local],
            neighborhood_answers=[known.ground_truth for known in local],
            portability=[ImplicationRecord(prompt=each.prompt, answer=each.ground_truth) for each in implied],
        )


class _Location(BaseModel):
    model_config = ConfigDict(strict=True)
    loc: str
    loc_ans: str


class QaEditRecord(Published):
    """QAEdit (arXiv 2502.11177): questions of several sources, each with ids of its own."""

    names = {
        "target_new": "target",
        "paraphrases": "rephrase",
        "neighborhood": "locality",
        "neighborhood_answers": "locality",
    }
    id: int | str
    source: str | None = None
    prompt: str
    subject: str
    target: str
    rephrase: Texts = []
    locality: list[_Location] = []

    def _record(self) -> FactRecord:
        return FactRecord(
            id=f"{self.source}/{self.id}" if self.source else str(self.id),
            **_sentence(self.prompt, self.subject),
            target_new=self.target,
            paraphrases=self.rephrase,
            neighborhood=[location.loc for location in self.locality],
            neighborhood_answers=[location.loc_ans for location in self.locality],
        )


class WikiBigEditRecord(Published):
    """WikiBigEdit (arXiv 2503.05683) in the form of LocFT's copy."""

    names = {
        "paraphrases": "rephrase_prompt",
        "neighborhood": "locality_prompt",
        "neighborhood_answers": "locality_ground_truth",
    }
    prompt: str
    subject: str
    target_new: str
    rephrase_prompt: Texts = []
    locality_prompt: Texts = []
    locality_ground_truth: Texts = []

    def _record(self) -> FactRecord:
        return FactRecord(
            **_sentence(self.prompt, self.subject),
            target_new=self.target_new,
            paraphrases=self.rephrase_prompt,
            neighborhood=self.locality_prompt,
            neighborhood_answers=self.locality_ground_truth,
        )


class _Asked(TypedDict):
    """The fields of a fact that a sentence gives."""

    prompt: str
    subject: str


def _sentence(sentence: str, subject: str) -> _Asked:
    prompt, spelled = cut_out_subject(sentence, subject)
    return {"prompt": prompt, "subject": spelled}


def cut_out_subject(sentence: str, subject: str) -> tuple[str, str]:
    """The sentence with `{}` where the subject is, and the subject as the sentence spells it.

    Data sets name a subject beside a whole sentence. It is searched as a whole word, then as one in another
    case, then inside a word. Of several places the last is taken: there a model has read the others.

    Raises:
        FactError: the subject is empty, or not in the sentence.
    """
    if not subject.strip():
        raise FactError(f"expected a text that is not empty, found {subject!r}", field="subject")
    if SLOT in sentence:
        return sentence, subject
    sentence, name = prompt_text(sentence), re.escape(phrase_text(subject))
    word = rf"(?<!\w){name}(?!\w)"
    for pattern, flags in ((word, 0), (word, re.IGNORECASE), (name, 0)):
        if found := list(re.finditer(pattern, sentence, flags)):
            place = found[-1]
            return f"{sentence[: place.start()]}{SLOT}{sentence[place.end() :]}", place[0]
    raise FactError(f"expected the subject {subject!r} in the sentence: {sentence!r}", field="prompt")
