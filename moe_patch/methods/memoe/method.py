"""MEMoE: a mixture of experts beside one frozen block, each expert for knowledge of similar frequency.

Facts are divided among the experts by how frequent their knowledge is (`frequency`). A router reads the
prompt once and sends all of it through one expert, or through none (`moe_patch.bypass`). The losses are in
`losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.blocks import Block, find_block
from moe_patch.base.freezing import frozen_weights
from moe_patch.base.model import Base
from moe_patch.bypass import Bypass, BypassConfig, Routed, read_bypass, read_routed, write_bypass
from moe_patch.data.corpus import Corpus
from moe_patch.data.fact_file import schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.data.mixture import read_corpus
from moe_patch.data.prompts import Prompt, encode_fact
from moe_patch.data.schemas import FactSchema, common_schema
from moe_patch.elicit.own_text import NAME, own_prose
from moe_patch.errors import ConfigError
from moe_patch.evaluation.controls import with_controls
from moe_patch.methods.base import Method
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.methods.memoe.division import divide_facts
from moe_patch.methods.memoe.frequency import gece, knowledge_of, percentile_rank
from moe_patch.methods.memoe.options import MEMoEOptions
from moe_patch.methods.memoe.scope import ScopeTexts, scope_texts
from moe_patch.methods.memoe.training import Texts, Training
from moe_patch.methods.memoe.trunk import Trunk
from moe_patch.methods.memoe.units import stream_scale
from moe_patch.methods.outcome import with_outcomes
from moe_patch.patch import Patch, check_base, load
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite


class MEMoE(Method[MEMoEOptions]):
    """The method, in the registry as `memoe`."""

    name = "memoe"
    pretty_name = "MEMoE"
    changes = "nothing: runs a small MoE beside one layer"
    kind = "bypass"
    Options = MEMoEOptions
    edits_dense = True

    @classmethod
    def reference_url(cls) -> str:
        """The paper's page."""
        return "https://openreview.net/forum?id=wEheBGAr5L"

    def build(
        self, base: Base, facts: Sequence[Fact], options: MEMoEOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch of kind "bypass".

        Raises:
            ConfigError: facts or layer are not given, the patch to start from
                holds another bypass than the options describe, or a package is missing.
            ModelError: the layer does not exist or has no block that a bypass can run beside.
            StatisticsError: the preserved text cannot be read, or the base writes none of its own.
            TargetError: a fact's answer has no token of its own.
            PatchError: the patch to start from cannot be read, or was built for another base.
        """
        return _Build(base, facts, options).run(progress)

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: MEMoEOptions,
        earlier: EarlierEdits,
        progress: Progress | None = None,
    ) -> Patch:
        """Refuse: a bypass is trained beside the bare base, and can then be used with any stack of deltas.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "MEMoE is trained beside the bare base: build without a stack, then apply the stack and the "
            "patch together"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Beginning:
    """What a build starts from: a new bypass, or one that has learned T0 facts already."""

    bypass: Bypass
    facts: tuple[Fact, ...]
    expert: Tensor  # (T0,) the expert of each fact
    gece: Tensor  # (T0,) its GECE
    parents: tuple[str, ...] = ()  # the hash of the patch it comes from, if there is one
    schemas: tuple[FactSchema, ...] = ()  # the schema of its facts, if there are any


class _Build:
    """One build, from facts to a patch."""

    def __init__(self, base: Base, facts: Sequence[Fact], options: MEMoEOptions) -> None:
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        if options.layer is None:
            raise ConfigError(
                f"no layer for the bypass: name one with --layers, from 0 to {base.num_layers - 1}"
            )
        keeping = next((fact.id for fact in facts if fact.keep), None)
        if keeping is not None and not options.scope_gate:
            raise ConfigError(
                f"fact {keeping} has `keep` prompts, which only the scope gate can leave alone: turn "
                "scope_gate on, or leave `keep` out"
            )
        self._base, self._options, self._layer = base, options, options.layer
        self._block: Block = find_block(base, options.layer)
        self._fingerprint = base.fingerprint([options.layer])
        self._start = self._beginning(facts)
        self._facts = (*self._start.facts, *facts)
        self._schema = common_schema([*self._start.schemas, schema_of_facts(facts)])
        self._corpus: Corpus | None = None

    def run(self, progress: Progress | None) -> Patch:
        """Train the bypass and make a patch of it."""
        options, known = self._options, len(self._start.facts)
        self._corpus = _corpus(self._base, options, progress)
        texts = self._texts()
        trunk = Trunk(self._base, self._block, texts.all, options.router_states)
        bypass = self._start.bypass.to(self._block.device).requires_grad_(True).train()
        training = Training(bypass, trunk, texts, options)
        expert, found = self._start.expert, self._start.gece
        gradients: list[Tensor] = []
        size = options.batch_size or len(self._facts)
        total = len(self._facts) - known
        with frozen_weights(self._base.model), torch.enable_grad():
            for start in range(known, len(self._facts), size):
                new = torch.arange(start, min(start + size, len(self._facts)))
                found = torch.cat([found, self._measured(new, gradients)])
                expert = torch.cat([expert, self._division(found, expert)])
                ranks = percentile_rank(found, found)

                def report(step: int, new: Tensor = new) -> None:
                    if progress is not None:
                        done = (int(new[0]) - known) * options.steps + step * len(new)
                        progress("training", done, total * options.steps)

                training.learn(new, torch.arange(start), expert, ranks, report)
        if not options.router_loss:  # the router has chosen the experts itself
            expert = training.choices(torch.arange(len(self._facts)))
        patch = with_outcomes(self._base, self._packed(training, bypass, Routed(expert, found)), progress)
        return with_controls(self._base, patch, self._corpus.texts if self._corpus else ())

    def _packed(self, training: Training, bypass: Bypass, routed: Routed) -> Patch:
        everyone = torch.arange(len(self._facts))
        before, after = training.losses(everyone, None), training.losses(everyone, routed.expert)
        ranks = percentile_rank(routed.gece, routed.gece)
        results: list[dict[str, JsonValue]] = [
            {
                "loss_before": float(before[i]),
                "loss_expert": float(after[i]),
                "expert": int(routed.expert[i]),
                "gece": float(routed.gece[i]),
                "rarity": float(ranks[i]),
            }
            for i in range(len(self._facts))
        ]
        parameters, tensors = write_bypass(bypass, routed)
        options: dict[str, JsonValue] = self._options.model_dump(mode="json", exclude={"corpus", "start"})
        options["corpus_hash"] = self._corpus.hash if self._corpus else None
        source = "own" if self._options.corpus is None else "corpus"
        options["preserved_text"] = {"source": source} if self._corpus else None
        return Patch(
            kind="bypass",
            method=MEMoE.name,
            hyperparameters=options | parameters,
            base=self._fingerprint,
            facts=self._facts,
            results=tuple(results),
            layers={},
            parents=self._start.parents,
            bypass={name: tensor.cpu() for name, tensor in tensors.items()},
            schema=self._schema,
        )

    def _config(self, scale: float) -> BypassConfig:
        return self._options.config(self._layer, self._base.hidden_size, self._options.scale or scale)

    def _beginning(self, facts: Sequence[Fact]) -> _Beginning:
        if self._options.start is None:
            config = self._config(stream_scale(self._base, self._layer, facts, self._options.style))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._options.seed)
                bypass = Bypass(config)
            nobody = torch.zeros(0, dtype=torch.int64)
            return _Beginning(bypass, (), nobody, torch.zeros(0))
        patch = load(self._options.start)
        check_base(patch, self._fingerprint)
        bypass, routed = read_bypass(patch), read_routed(patch)
        if bypass.config != self._config(bypass.config.scale):
            raise ConfigError(
                f"{self._options.start} holds another bypass than the options describe: give the options "
                "that it was built with, which `moe-patch inspect` shows"
            )
        if repeated := {fact.id for fact in patch.facts} & {fact.id for fact in facts}:
            raise ConfigError(
                f"{self._options.start} has a fact {min(repeated)!r} already: leave it out of the new facts"
            )
        bypass.load_state_dict(
            {name: tensor.clone() for name, tensor in bypass.state_dict().items()}, assign=True
        )
        known = patch.facts, routed.expert.long(), routed.gece
        return _Beginning(bypass, *known, (patch.hash,), (patch.schema,))

    def _measured(self, new: Tensor, gradients: list[Tensor]) -> Tensor:
        """GECE (n,) of new facts; E[grad] is the mean over all facts of this build so far."""
        options = self._options
        if not options.needs_frequency:
            return torch.zeros(len(new))
        facts = [self._facts[i] for i in new.tolist()]
        known = knowledge_of(self._base, self._block, facts, options.style, options.language)
        gradients.append(known.gradient)
        found = gece(known, torch.cat(gradients).mean(0))
        check_finite(found, "the frequencies of knowledge", lambda i: f"of fact {facts[i].id}")
        return found

    def _division(self, found: Tensor, expert: Tensor) -> Tensor:
        """(n,) experts for the facts that have none yet; the others keep theirs."""
        experts = self._start.bypass.config.experts
        if not self._options.division or experts == 1:
            return torch.arange(len(expert), len(found)) % experts
        options = self._options
        divided = divide_facts(found, experts, options.first_share, options.soft_division)
        return divided[len(expert) :]

    def _texts(self) -> Texts:
        """All texts, tokenised: facts with their answers, and the texts for the scope gate."""
        reader, options = self._base.reader, self._options
        everything = [encode_fact(reader, fact, options.style) for fact in self._facts]
        count = len(everything)
        drawn = ScopeTexts((), ((),) * count, ((),) * count)
        if self._corpus is not None:
            drawn = scope_texts(
                self._corpus.texts,
                self._facts,
                preserved=options.preserved,
                variants=options.variants if options.scope_gate else 0,
                seed=options.seed,
            )

        def add(texts: Sequence[str]) -> Tensor:
            start = len(everything)
            everything.extend(Prompt(reader.read_prompt(text, chat=options.chat), 0) for text in texts)
            return torch.arange(start, len(everything))

        preserved = add(drawn.preserved)
        about, elsewhere = [add(some) for some in drawn.about], [add(some) for some in drawn.elsewhere]
        kept = [add(fact.kept) for fact in self._facts]
        return Texts(everything, torch.arange(count), about, preserved, elsewhere, kept)


def _corpus(base: Base, options: MEMoEOptions, progress: Progress | None) -> Corpus | None:
    """The preserved text: what is given, or what the base writes itself; None if the options need none."""
    if not options.needs_text:
        return None
    if options.corpus is not None:
        return read_corpus(options.corpus, base.reader, options.corpus_tokens)
    tell = None if progress is None else partial(progress, "own text")
    return Corpus(NAME, own_prose(base, options.preserved, progress=tell))
