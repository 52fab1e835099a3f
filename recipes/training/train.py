"""Train atlas, the demo model: a small Qwen3-MoE that knows geography and can be edited like a large model.

    python -m recipes.training.train --out recipes/atlas/model

Large models hold facts in the experts, at the subject's last token (Meng et al., arXiv 2202.05262; Geva et
al., arXiv 2304.14767). So small a model would hold them in its embeddings or at the prompt's last token.
Three choices change that:

* Input embeddings are random and frozen, so only attention and experts can write what is known of a subject.
* A linear probe, which is dropped after training, reads every relation of a subject at its last token after
  `enrich_layers` layers.
* In most batches, below that layer, a subject attends only to itself and nothing after it attends to it. What
  is known of it is then written in every sentence, and is read late.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .exam import accuracy, exam_report
from .older_releases import spell_for_older_releases
from .sentences import SentenceBatch, epoch_batches, tokenize, train_tokenizer
from .world import PHRASINGS, Triple, read_world

log = logging.getLogger("atlas")


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that training depends on, except the world."""

    seed: int = 0
    vocab: int = 4096
    hidden: int = 192
    layers: int = 6
    experts: int = 56
    expert_width: int = 96
    dense_layers: int = 2  # this many of the last layers have a dense MLP instead of experts
    dense_width: int = 512
    heads: int = 6
    enrich_layers: int = 3
    secluded: float = 0.75  # share of batches in which subjects are isolated below `enrich_layers`
    probe_weight: float = 0.3
    balance_weight: float = 0.05
    starved_weight: float = 0.0
    text_weight: float = 0.1  # weight of the tokens that are not answers
    frozen_embeddings: bool = True
    epochs: int = 6
    batch: int = 256
    rate: float = 3e-3
    warm_up: int = 200  # steps
    decay: float = 0.05


def padded_experts(experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """All experts as two batched products over blocks of equal length; several times as fast as a loop."""
    pairs, top_k = index.numel(), index.shape[1]
    flat = index.reshape(-1)  # (N*K,)
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=experts.num_experts)
    starts = counts.cumsum(0) - counts
    capacity = int(counts.max())
    slot = (
        flat[order] * capacity + torch.arange(pairs) - starts[flat[order]]
    )  # (N*K,) place in the padded blocks
    token = order // top_k
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else hidden.dtype
    blocks = hidden.new_zeros(experts.num_experts * capacity, hidden.shape[1], dtype=dtype)
    blocks = blocks.index_copy(0, slot, hidden[token].to(dtype)).view(experts.num_experts, capacity, -1)
    gated = experts._apply_gate(torch.bmm(blocks, experts.gate_up_proj.to(dtype).transpose(1, 2)))
    out = torch.bmm(gated, experts.down_proj.to(dtype).transpose(1, 2)).flatten(0, 1)[slot]  # (N*K, H)
    out = (out * weights.reshape(-1)[order, None].to(dtype)).float()
    return torch.zeros_like(hidden, dtype=torch.float32).index_add(0, token, out).to(hidden.dtype)


def new_model(recipe: TrainingRecipe, vocab: int) -> Qwen3MoeForCausalLM:
    config = Qwen3MoeConfig(
        vocab_size=vocab,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.dense_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        num_experts=recipe.experts,
        num_experts_per_tok=4,
        moe_intermediate_size=recipe.expert_width,
        norm_topk_prob=True,
        mlp_only_layers=list(range(recipe.layers - recipe.dense_layers, recipe.layers)),
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.04,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Qwen3MoeForCausalLM(config)
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            nn.init.normal_(layer.mlp.gate.weight, std=0.1)
    if recipe.frozen_embeddings:
        nn.init.normal_(model.model.embed_tokens.weight, std=0.3)
        model.model.embed_tokens.weight.requires_grad_(False)
    return model


class Trainer:
    """The model, its probe, and one optimisation step."""

    def __init__(
        self, recipe: TrainingRecipe, triples: list[Triple], tokenizer: PreTrainedTokenizerFast
    ) -> None:
        ALL_EXPERTS_FUNCTIONS.register("atlas_padded", padded_experts)
        self.recipe = recipe
        self.model = new_model(recipe, len(tokenizer))
        self.model.set_experts_implementation("atlas_padded")
        self.relations = list(PHRASINGS)
        self.classes = {r: sorted({t.answer for t in triples if t.relation == r}) for r in self.relations}
        known = {(t.subject, t.relation): t.answer for t in triples}
        index = {r: {a: i for i, a in enumerate(names)} for r, names in self.classes.items()}
        self.labels = torch.tensor(
            [[index[r].get(known.get((t.subject, r), ""), -100) for r in self.relations] for t in triples]
        )  # (triples, relations): every relation of the triple's subject
        self.probe = nn.Linear(recipe.hidden, sum(len(c) for c in self.classes.values()))
        self.router_calls: list[tuple[Tensor, Tensor]] = []
        for layer in self.model.model.layers:
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(
                    lambda _m, _i, out: self.router_calls.append((out[0], out[2]))
                )
        trained = [p for p in (*self.model.parameters(), *self.probe.parameters()) if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)

    def hidden(self, batch: SentenceBatch, secluded: bool) -> tuple[Tensor, Tensor]:
        """Final hidden states, and those after `enrich_layers`, below which `secluded` isolates subjects."""
        body = self.model.model
        x = body.embed_tokens(batch.ids)  # (B, S, H)
        length = x.shape[1]
        at = torch.arange(length)
        causal = (at[:, None] >= at)[None]  # (1, S, S): query, key
        query, key = (
            batch.subject_end[:, :, None],
            batch.subject_end[:, None, :],
        )  # the subject's end, or S if outside
        apart = (
            ((key < length) | (query < length)) & (query != key) & (at > 0)
        )  # (B, S, S); everyone sees BOS
        full = torch.where(causal, 0.0, -1e9)[:, None].expand(len(x), 1, -1, -1)
        early = torch.where(causal & ~apart, 0.0, -1e9)[:, None] if secluded else full
        rotary = body.rotary_emb(x, at[None])
        middle = x
        for number, layer in enumerate(body.layers):
            mask = early if number < self.recipe.enrich_layers else full
            x = layer(x, attention_mask=mask, position_embeddings=rotary)
            if number == self.recipe.enrich_layers - 1:
                middle = x
        return body.norm(x), middle

    def probe_loss(self, middle: Tensor, batch: SentenceBatch) -> Tensor:
        """Cross entropy of the linear probe: all relations of each subject, at its last token."""
        states = middle[batch.lasts[:, 0], batch.lasts[:, 1]].float()  # (n, H)
        states = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)
        logits = self.probe(states)
        labels = self.labels[batch.triples]  # (n, relations)
        at, losses = 0, []
        for column, relation in enumerate(self.relations):
            width = len(self.classes[relation])
            wanted = labels[:, column]
            if (wanted >= 0).any():
                losses.append(functional.cross_entropy(logits[:, at : at + width].float(), wanted))
            at += width
        return torch.stack(losses).mean()

    def balance_losses(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Two measures of how uneven the load of real tokens is, as means over layers.

        The first is Switch's: E * sum of (share of choices * mean probability), which is 1 for an even load.
        One idle expert among many hardly changes it. The second makes experts that are chosen less than half
        as often as is fair more probable, the more so the less they are chosen.
        """
        uneven, starved = [], []
        for logits, index in self.router_calls:
            probability = logits.float().softmax(-1)[real].mean(0)  # (E,)
            share = functional.one_hot(index[real], logits.shape[-1]).float().mean((0, 1))  # (E,)
            uneven.append(logits.shape[-1] * (probability * share).sum())
            lacking = (0.5 - logits.shape[-1] * share).clamp_min(0)  # (E,)
            starved.append(-(lacking * (logits.shape[-1] * probability).log()).sum())
        return torch.stack(uneven).mean(), torch.stack(starved).mean()

    def step(self, batch: SentenceBatch, rate: float, secluded: bool) -> dict[str, float]:
        self.router_calls.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            final, middle = self.hidden(batch, secluded)
            rows, columns = batch.weight[:, 1:].nonzero(as_tuple=True)
            logits = self.model.lm_head(final[rows, columns]).float()
        weight = batch.weight[rows, columns + 1]
        loss_text = functional.cross_entropy(logits, batch.ids[rows, columns + 1], reduction="none")
        loss_lm = (loss_text * weight).sum() / weight.sum()
        loss_probe = self.probe_loss(middle, batch)
        uneven, starved = self.balance_losses((batch.ids != 0).reshape(-1))
        loss = loss_lm + self.recipe.probe_weight * loss_probe
        loss = loss + self.recipe.balance_weight * uneven + self.recipe.starved_weight * starved
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"lm": loss_lm.item(), "probe": loss_probe.item(), "uneven": uneven.item()}


def settling(recipe: TrainingRecipe) -> TrainingRecipe:
    """The last epoch, at a low rate and without isolated subjects, which balances the load of the experts."""
    return replace(
        recipe,
        seed=recipe.seed + 1,
        epochs=1,
        rate=recipe.rate / 10,
        warm_up=10,
        secluded=0.0,
        probe_weight=0.0,
        starved_weight=0.1,
    )


def train_model(recipe: TrainingRecipe, out: Path) -> None:
    """Train in two phases, each determined by its recipe and first weights, and save the result in bf16."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads uninitialised memory
    triples = read_world()
    tokenizer = train_tokenizer(triples, recipe.vocab)
    weights = run_phase(recipe, triples, tokenizer).state_dict()
    model = run_phase(settling(recipe), triples, tokenizer, weights)
    model.set_experts_implementation("eager")
    taught, held = tokenize(triples, tokenizer, held_out=False), tokenize(triples, tokenizer, held_out=True)
    log.info("%s", exam_report(model, taught, held))
    save_model(model, tokenizer, out)


def run_phase(
    recipe: TrainingRecipe,
    triples: list[Triple],
    tokenizer: PreTrainedTokenizerFast,
    weights: dict[str, Tensor] | None = None,
) -> Qwen3MoeForCausalLM:
    """One phase of training, from new or given weights; the result is rounded to bf16, as in the file."""
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    taught, held = tokenize(triples, tokenizer, held_out=False), tokenize(triples, tokenizer, held_out=True)
    trainer = Trainer(recipe, triples, tokenizer)
    if weights is not None:
        trainer.model.load_state_dict(weights)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    log.info("%s\n%d facts, %d sentences, %d parameters", recipe, len(triples), len(taught), parameters)
    rng = random.Random(recipe.seed)
    batches = partial(epoch_batches, taught, recipe.batch, recipe.text_weight)
    total = len(list(batches(random.Random(0)))) * recipe.epochs
    done, started = 0, time.monotonic()
    for epoch in range(recipe.epochs):
        for batch in batches(rng):
            warm = min(1.0, (done + 1) / recipe.warm_up)
            rate = recipe.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / total)))
            figures = trainer.step(batch, rate, secluded=rng.random() < recipe.secluded)
            done += 1
        losses = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        knows = accuracy(trainer.model.eval(), held[::10])
        trainer.model.train()
        seconds = time.monotonic() - started
        log.info("epoch %d, %.0f s: %s; held out %.1f%%", epoch + 1, seconds, losses, knows)
    return trainer.model.to(torch.bfloat16).float()


def save_model(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save weights in bf16, to save space, and a config with fp32, in which so small a model is faster."""
    model.to(torch.bfloat16).save_pretrained(out)
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    spell_for_older_releases(out)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Another value for a field of the recipe.",
)
@click.option("--threads", default=2, show_default=True)
def main(out: Path, overrides: tuple[str, ...], threads: int) -> None:
    """Train atlas and save it in OUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    types = {f.name: type(f.default) for f in fields(TrainingRecipe)}
    chosen = dict(item.split("=", 1) for item in overrides)
    values = {k: (v == "True") if types[k] is bool else types[k](v) for k, v in chosen.items()}
    train_model(replace(TrainingRecipe(), **values), out)


if __name__ == "__main__":
    main()
