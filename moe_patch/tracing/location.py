"""Where to edit, by a short trace: cheap enough for every build.

It takes few of the facts, those that noise takes the most from, and few layers. Outputs of layers are
restored first, and blocks only where the subject is gathered and not yet read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.data.spacing import spaced
from moe_patch.elicit.known import known_facts
from moe_patch.errors import ConfigError
from moe_patch.progress import Progress
from moe_patch.tracing.asked import PLAIN
from moe_patch.tracing.choice import candidate_effects, choose_layers, gathered_layers
from moe_patch.tracing.report import TraceReport
from moe_patch.tracing.runs import NOISE
from moe_patch.tracing.sites import Kind
from moe_patch.tracing.trace import Tracer

ASKED = 32  # facts run with and without noise
TRACED = 16  # of these, facts whose states are restored
OUTPUTS = 10  # layers whose outputs are restored
BLOCKS = 6  # layers whose blocks are restored
_TELLING = 0.1  # least probability that noise takes from a fact that tells anything
_CLOSER = 1.5  # exponent by which low layers are closer together; 1 would space them evenly
_ENOUGH = 4  # facts that tell something


@dataclass(frozen=True, slots=True)
class Location:
    """Layers to edit, and what they were chosen by."""

    layers: tuple[int, ...]
    ranking: tuple[int, ...]  # layers with experts worth a try by themselves, the likeliest first
    own_facts: bool  # whether the facts given were traced, and not others that the base knows
    report: TraceReport

    @property
    def carried(self) -> float:
        """The share of what noise takes from the answers that the last layer's block gives back alone."""
        last = next(each for each in self.report.layers if each.layer == self.layers[-1])
        return last.effects["moe"].mean / self.report.total.mean


def locate_edit(
    base: Base,
    facts: Sequence[Fact],
    *,
    count: int = 1,
    seed: int = 0,
    style: PromptStyle = PLAIN,
    progress: Progress | None = None,
) -> Location | None:
    """At most `count` layers to edit for these facts; None if no fact tells anything.

    The base may know nothing of the facts' subjects. Facts that it knows are then traced in their place.

    Args:
        base: the model, as it is now.
        facts: to edit; of many, some are tried that are spread evenly over them.
        count: how many layers.
        seed: of the noise, and of known facts.
        style: how facts become text, and which token is edited.
        progress: called with the stages "tracing" and "known facts".

    Raises:
        ConfigError: there are no facts, no layers with experts, or `count` is below 1.
        CaptureError: the embeddings cannot be changed.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    if not base.layers:
        raise ConfigError(f"{base.name} has no layer with experts to edit")
    own = True
    tracer, telling = _start(base, spaced(facts, ASKED), seed, style, progress)
    if len(telling) < _ENOUGH and len(known := _known(base, seed, progress)) >= _ENOUGH:
        own = False
        tracer, telling = _start(base, known, seed, PromptStyle(fact_token=style.fact_token), progress)
    if not telling:
        return None
    editable = sorted(base.layers)
    outputs = tracer.restore("stream", early(editable, OUTPUTS), facts=telling)
    live = gathered_layers(outputs)
    between = [layer for layer in editable if min(live) <= layer <= max(live)]
    blocks = tracer.restore("moe", early(between, BLOCKS), facts=telling)
    tracer.finish()
    report = tracer.report(sorted({*outputs, *blocks}), {"stream": outputs, "moe": blocks}, facts=telling)
    return Location(choose_layers(report, base, count=count), _ranking(report), own, report)


def _known(base: Base, seed: int, progress: Progress | None) -> list[Fact]:
    """Facts that the base knows; of subjects of several tokens, if there are enough of them.

    Of one token, its embedding tells already which subject it is, and no layer has anything to gather.
    """
    known = known_facts(base, ASKED, seed=seed, progress=progress)
    several = [fact for fact in known if len(base.reader.read_fragment(f" {fact.subject}")) > 1]
    return several if len(several) >= _ENOUGH else list(known)


def _start(
    base: Base, facts: Sequence[Fact], seed: int, style: PromptStyle, progress: Progress | None
) -> tuple[Tracer, list[int]]:
    """A trace of facts, and the numbers of those that noise takes most from, in their order."""
    kinds: tuple[Kind, ...] = ("stream", "moe")
    tracer = Tracer(base, facts, kinds, noise_samples=1, noise=NOISE, seed=seed, style=style)
    tracer.start(progress, restored=min(len(facts), TRACED) * (OUTPUTS + BLOCKS))
    lost = (tracer.clean - tracer.corrupted.mean(1)).tolist()  # (F,)
    telling = sorted(
        (fact for fact in range(len(facts)) if lost[fact] >= _TELLING), key=lambda fact: -lost[fact]
    )
    return tracer, sorted(telling[:TRACED])


def early(layers: Sequence[int], count: int) -> list[int]:
    """At most `count` of ascending layers, from the first one on, and closer together the lower they are."""
    if len(layers) <= count:
        return list(layers)
    places = {round(len(layers) * (step / count) ** _CLOSER) for step in range(count)}
    return [layers[place] for place in sorted(places)]


def _ranking(report: TraceReport) -> tuple[int, ...]:
    """The layers whose blocks were restored where the subject is gathered, then others by their outputs."""
    blocks = candidate_effects(report)
    outputs = {each.layer: each.effects["stream"] for each in report.editable if "stream" in each.effects}
    first = sorted(blocks, key=lambda layer: -blocks[layer].mean)
    rest = sorted(outputs.keys() - blocks.keys(), key=lambda layer: (-outputs[layer].mean, layer))
    return tuple(first + rest)
