"""RAG: the nearest facts are put before the prompt, and no weight is changed.

It is what users compare editing with in their heads. The idea is that of retrieval-augmented generation
(Lewis et al., NeurIPS 2020); as a baseline of editing it is in-context editing without demonstrations (IKE,
arXiv 2305.12740). Facts are found by the words that they share with a prompt (`retrieval`), so nothing is
trained, and the patch works with any model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field, JsonValue, ValidationError

from moe_patch.base.model import Base
from moe_patch.data.fact_file import schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError, MalformedMetadata
from moe_patch.evaluation.scoring import score_answers
from moe_patch.io import strict_json
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.outcome import with_outcomes
from moe_patch.methods.rivals.retrieval import FactIndex, statement_of
from moe_patch.patch import Patch
from moe_patch.progress import Progress


class RAGOptions(MethodOptions):
    """Options of RAG."""

    top_k: int = Field(3, ge=1, le=2**20, description="Most facts that are put before a prompt.")
    threshold: float = Field(
        0.75, ge=0, le=1, description="Share of a fact's subject that a prompt must have to be about it."
    )
    separator: str = Field(
        " ", max_length=64, description="What stands between statements, and before the prompt."
    )
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")

    @property
    def style(self) -> PromptStyle:
        """How facts become text."""
        return PromptStyle(self.chat, "last")


class RAG(Method[RAGOptions]):
    """The method, in the registry as `rag`."""

    name = "rag"
    pretty_name = "RAG"
    changes = "nothing: puts facts before the prompts that are about them"
    kind = "prompt"
    rival = True
    Options = RAGOptions
    edits_dense = True

    @classmethod
    def reference_url(cls) -> str:
        """Retrieval-augmented generation on arXiv."""
        return "https://arxiv.org/abs/2005.11401"

    def build(
        self, base: Base, facts: Sequence[Fact], options: RAGOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of kind "prompt", which holds the facts and how they are found.

        Raises:
            ConfigError: there are no facts.
            EvaluationError: a fact's answer has no token of its own.
            PromptError: a fact has no room in the model with what is put before it.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        parameters: dict[str, JsonValue] = options.model_dump(mode="json")
        asked = [(fact.text, fact.target_new) for fact in facts]
        before = score_answers(base, asked, chat=options.chat, progress=progress, stage="facts before")
        patch = Patch(
            kind="prompt",
            method=self.name,
            hyperparameters=parameters,
            base=base.fingerprint([], progress),
            facts=tuple(facts),
            results=tuple({"loss_before": round(-was.logprob, 4)} for was in before),
            layers={},
            schema=schema_of_facts(facts),
        )
        return with_outcomes(base, patch, progress, self.rewriter(base, patch))

    def rewriter(self, base: Base, patch: Patch) -> Callable[[str], str]:
        """What puts the statements of the nearest facts before a prompt, the nearest last.

        A prompt that is about none of the facts stays as it is.

        Raises:
            MalformedMetadata: the patch does not hold the method's options.
        """
        own = {key: value for key, value in patch.hyperparameters.items() if key in RAGOptions.model_fields}
        try:
            options = RAGOptions.model_validate(own)
        except ValidationError as error:
            raise MalformedMetadata(f"hyperparameters: {strict_json.first_complaint(error)}") from error
        index = FactIndex(patch.facts)

        def rewrite(prompt: str) -> str:
            found = index.find(prompt, most=options.top_k, threshold=options.threshold)
            return options.separator.join([*map(statement_of, reversed(found)), prompt])

        return rewrite
