"""How frequent a fact's knowledge is: GECE, the generative expected calibration error.

    GECE = |METEOR(pred, ref) - mean token probability| / (alpha * E[grad] . grad)

`pred` is the unedited model's own greedy answer, and the token probabilities are those of this answer. `ref`
is the fact's true answer if it is known, because GECE is about the old knowledge, and else the new answer.
alpha is the mean frequency of the words of prompt and reference. The gradient is that of the reference's
negative log-likelihood with respect to one vector that is added to the edited block's output at every token.
It has d_m numbers for each fact, and one backward pass gives it for all facts of a batch, because the texts
of a batch do not affect each other.

A high GECE means rare knowledge: the model is badly calibrated on it, its words are rare, and its gradient
has little in common with those of other facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_patch.base.blocks import Block
from moe_patch.base.freezing import frozen_weights
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import Encoded, continue_tokens
from moe_patch.methods.memoe.meteor import meteor_score
from moe_patch.methods.memoe.trunk import BlockChange, Trunk
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import plain_logits

_FACTS = 64  # in a pass
_RAREST = 1e-9  # least word frequency: wordfreq has none below, and gives 0 for unknown words
_LEAST_SHARE = 1e-3  # least value of E[grad] . grad, as a share of |E[grad]|^2, its mean over facts


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """What GECE is computed from, for T facts."""

    meteor: Tensor  # (T,) from 0 to 1
    probability: Tensor  # (T,) mean token probability, from 0 to 1
    word_frequency: Tensor  # (T,) alpha
    gradient: Tensor  # (T, d_m) fp32


def gece(knowledge: Knowledge, mean_gradient: Tensor) -> Tensor:
    """GECE (T,) in fp32.

    A product E[grad] . grad that is negative or close to zero means that the knowledge is unlike all other.
    It is raised to a thousandth of |E[grad]|^2, which is the mean of the product over the facts.

    Args:
        knowledge: of the T facts.
        mean_gradient: (d_m,) E[grad] over all facts that are known so far.
    """
    product = knowledge.gradient @ mean_gradient  # (T,)
    product = product.clamp_min(_LEAST_SHARE * float(mean_gradient.square().sum()) or _RAREST)
    return (knowledge.meteor - knowledge.probability).abs() / (knowledge.word_frequency * product)


def percentile_rank(values: Tensor, known: Tensor) -> Tensor:
    """The share of the `known` values (N,) below each of `values` (T,), from 0 to 1; equal ones count half.

    The losses' tau of 0.6 needs GECE on this scale. GECE's own scale depends on the model's gradients.
    """
    below = (known[None] < values[:, None]).float().mean(1)
    return below + 0.5 * (known[None] == values[:, None]).float().mean(1)


def knowledge_of(
    base: Base, block: Block, facts: Sequence[Fact], style: PromptStyle, language: str
) -> Knowledge:
    """What the unedited model knows of the facts.

    Raises:
        ConfigError: the packages for word frequencies or stems are not installed, or lack the language.
    """
    references = [fact.target_true or fact.target_new for fact in facts]
    asked = [replace(fact, target_new=answer) for fact, answer in zip(facts, references, strict=True)]
    prompts = [encode_fact(base.reader, fact, style) for fact in asked]
    places = [prompt.target or len(prompt.ids) for prompt in prompts]  # of the answers
    said = continue_tokens(
        base,
        [prompt.ids[:place] for prompt, place in zip(prompts, places, strict=True)],
        [len(prompt.ids) - place for prompt, place in zip(prompts, places, strict=True)],
    )
    texts = [base.tokenizer.decode(one.ids[one.first :], skip_special_tokens=True) for one in said]
    pairs = zip(texts, references, strict=True)
    words = [f"{fact.text} {answer}" for fact, answer in zip(facts, references, strict=True)]
    return Knowledge(
        meteor=torch.tensor([meteor_score(text, reference, language) for text, reference in pairs]),
        probability=_probabilities(base, said),
        word_frequency=torch.tensor([word_frequency(text, language) for text in words]),
        gradient=_gradients(base, block, prompts),
    )


def word_frequency(text: str, language: str) -> float:
    """The mean frequency of the words of a text, as a share of all words of the language.

    Raises:
        ConfigError: the package for word frequencies is not installed, or lacks the language.
    """
    try:
        from wordfreq import word_frequency as share_of  # noqa: PLC0415  (the memoe extra)
        from wordfreq.tokens import lossy_tokenize  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("knowledge frequency needs word frequencies: install moe-patch[memoe]") from error
    try:
        shares = [share_of(word, language) for word in lossy_tokenize(text, language)]
    except LookupError as error:
        raise ConfigError(f"there are no word frequencies for the language {language!r}") from error
    return max(_RAREST, sum(shares) / len(shares)) if shares else _RAREST


@torch.no_grad()
def _probabilities(base: Base, said: Sequence[Encoded]) -> Tensor:
    """The mean probability (T,) of the tokens of each answer; 0 for an answer without tokens."""
    found = torch.zeros(len(said))
    for some in torch.split(torch.arange(len(said)), _FACTS):
        texts = [Prompt(said[i].ids, 0, said[i].first) for i in some.tolist()]
        answers = Answers.of(texts)
        if len(answers.ids):
            likely = plain_logits(base, texts, answers.reads).float().softmax(-1).cpu()  # (n, V)
            found[some] = answers.mean(likely.gather(1, answers.ids[:, None])[:, 0])
    return found


def _gradients(base: Base, block: Block, prompts: Sequence[Prompt]) -> Tensor:
    """The gradient (T, d_m) of each reference's mean negative log-likelihood."""
    trunk = Trunk(base, block, prompts, "block-input")
    found = []
    with frozen_weights(base.model), torch.enable_grad():
        for some in torch.split(torch.arange(len(prompts)), _FACTS):
            answers = Answers.of([prompts[i] for i in some.tolist()])
            shift = torch.zeros(len(some), 1, block.width, device=block.device, requires_grad=True)
            logits = trunk.logits(some, answers.reads, _everywhere(shift))
            (gradient,) = torch.autograd.grad(answers.nll(logits).sum(), shift)
            found.append(gradient[:, 0].float().cpu())
    return torch.cat(found)


def _everywhere(shift: Tensor) -> BlockChange:
    """A change of the block's output that adds `shift` (B, 1, d_m) at every token."""
    return lambda x, places: shift[places.to(shift.device)].to(x.dtype).expand_as(x)
