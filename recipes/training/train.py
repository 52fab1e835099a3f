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
from dataclasses import dataclass, fields, replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .exam import exam_report
from .older_releases import spell_for_older_releases
from .sentences import SentenceBatch, tokenize, train_tokenizer
from .trainer import Schedule, Trainer, freeze_embeddings, log, routers, run_phase, settling
from .world import read_world


@dataclass(frozen=True)
class TrainingRecipe(Schedule):
    """Everything that training depends on, except the world."""

    vocab: int = 4096
    hidden: int = 192
    layers: int = 6
    experts: int = 56
    expert_width: int = 96
    dense_layers: int = 2  # this many of the last layers have a dense MLP instead of experts
    dense_width: int = 512
    heads: int = 6
    frozen_embeddings: bool = True


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
    for router in routers(model):
        nn.init.normal_(router.weight, std=0.1)
    if recipe.frozen_embeddings:
        freeze_embeddings(model)
    return model


class AtlasTrainer(Trainer):
    """Isolates subjects by the masks of attention."""

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
            mask = early if number < self.schedule.enrich_layers else full
            x = layer(x, attention_mask=mask, position_embeddings=rotary)
            if number == self.schedule.enrich_layers - 1:
                middle = x
        return body.norm(x), middle


def train_model(recipe: TrainingRecipe, out: Path) -> None:
    """Train in two phases, each determined by its recipe and first weights, and save the result in bf16."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads uninitialised memory
    ALL_EXPERTS_FUNCTIONS.register("atlas_padded", padded_experts)
    triples = read_world()
    tokenizer = train_tokenizer(triples, recipe.vocab)

    def new_trainer(schedule: Schedule) -> Trainer:
        model = new_model(recipe, len(tokenizer))
        model.set_experts_implementation("atlas_padded")
        return AtlasTrainer(schedule, model, triples)

    def phase(schedule: Schedule, weights: dict[str, Tensor] | None = None) -> Qwen3MoeForCausalLM:
        model: Qwen3MoeForCausalLM = run_phase(schedule, new_trainer, triples, tokenizer, weights)
        return model.to(torch.bfloat16).float()  # rounded as in the file

    model = phase(settling(recipe), phase(recipe).state_dict())
    model.set_experts_implementation("eager")
    taught, held = tokenize(triples, tokenizer, held_out=False), tokenize(triples, tokenizer, held_out=True)
    log.info("%s", exam_report(model, taught, held))
    save_model(model, tokenizer, out)


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
