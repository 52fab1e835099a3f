"""How the chat templates of the supported families frame one exchange, written anew and cut to that.

Each has what makes its answers hard to place: channels, empty thoughts, blanks, trimmed contents, a system
message that holds the words "user" and "assistant", or a generation prompt that opens a block of thoughts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """A template, and what it puts between a user's message and an assistant's answer."""

    source: str
    between: str


def _template(head: str, user: str, assistant: str, generation: str, between: str) -> Template:
    """A template from what it writes at the start, for both roles with content `c`, and to be continued."""
    turns = (
        "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'user' %}"
        f"{user}{{% elif m['role'] == 'assistant' %}}{assistant}{{% endif %}}{{% endfor %}}"
    )
    ending = f"{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    return Template(head + turns + ending, between)


def _chatml(head: str, before_answer: str = "", content: str = "c", generation: str = "") -> Template:
    return _template(
        head,
        "<|im_start|>user\n{{ c }}<|im_end|>\n",
        f"<|im_start|>assistant\n{before_answer}{{{{ {content} }}}}<|im_end|>\n",
        f"<|im_start|>assistant\n{generation}",
        f"<|im_end|>\n<|im_start|>assistant\n{before_answer}",
    )


_AFTER_THOUGHTS = "c.split('</think>')[-1].lstrip('\n')"
_HARMONY = (
    "<|start|>system<|message|>You are ChatGPT.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n"
    "# Valid channels: analysis, commentary, final. The user asks, the assistant answers.<|end|>"
)
_BEGIN, _END = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
_USER, _ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
_MINIMAX = "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n"
_REFUSED = (
    "{% if messages|length > 2 %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)

TEMPLATES = {
    "Qwen2-MoE": _chatml("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
    "Qwen3-MoE": _chatml("", "<think>\n\n</think>\n\n", _AFTER_THOUGHTS),
    "Qwen3-MoE, thinking": _chatml("", "<think>\n\n</think>\n\n", _AFTER_THOUGHTS, "<think>\n"),
    "LFM2-MoE": _chatml("<|startoftext|>"),
    "GPT-OSS": _template(
        _HARMONY,
        "<|start|>user<|message|>{{ c }}<|end|>",
        "<|start|>assistant<|channel|>final<|message|>{{ c }}<|return|>",
        "<|start|>assistant",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "Mixtral": _template(f"<s>{_REFUSED}", " [INST] {{ c }} [/INST]", " {{ c }}</s>", "", " [/INST] "),
    "Mistral, later": _template("<s>", "[INST] {{ c }}[/INST]", " {{ c | trim }}</s>", "", "[/INST] "),
    "DeepSeek-V3": _template(
        _BEGIN, f"{_USER}{{{{ c }}}}", f"{_ASSISTANT}{{{{ c }}}}{_END}", _ASSISTANT, _ASSISTANT
    ),
    "DeepSeek-R1": _template(
        _BEGIN,
        f"{_USER}{{{{ c }}}}",
        f"{_ASSISTANT}{{{{ c.split('</think>')[-1] }}}}{_END}",
        f"{_ASSISTANT}<think>\n",
        _ASSISTANT,
    ),
    "GLM-4.5": _template(
        "[gMASK]<sop>",
        "<|user|>\n{{ c }}",
        "<|assistant|>\n<think></think>\n{{ c.strip() }}",
        "<|assistant|>",
        "<|assistant|>\n<think></think>\n",
    ),
    "MiniMax-M2": _template(
        _MINIMAX, "]~b]user\n{{ c }}[e~[\n", "]~b]ai\n{{ c }}[e~[\n", "]~b]ai\n<think>\n", "[e~[\n]~b]ai\n"
    ),
    "GraniteMoE": _template(
        "<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\n",
        "<|start_of_role|>user<|end_of_role|>{{ c }}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>{{ c }}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
    "OLMoE": _template(
        "<|endoftext|>",
        "<|user|>\n{{ c }}\n",
        "<|assistant|>\n{{ c }}<|endoftext|>",
        "<|assistant|>\n",
        "\n<|assistant|>\n",
    ),
    "Phi-MoE": _template(
        "",
        "<|user|>\n{{ c }}<|end|>\n",
        "<|assistant|>\n{{ c }}<|end|>\n",
        "<|assistant|>\n",
        "<|end|>\n<|assistant|>\n",
    ),
    "Gemma": _template(
        "<bos>",
        "<start_of_turn>user\n{{ c | trim }}<end_of_turn>\n",
        "<start_of_turn>model\n{{ c | trim }}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "<end_of_turn>\n<start_of_turn>model\n",
    ),
    "Hunyuan": _template(
        "<|startoftext|>", "{{ c }}<|extra_0|>", "{{ c }}<|eos|><|startoftext|>", "", "<|extra_0|>"
    ),
    "Hunyuan-A13B": _template(
        "<|startoftext|>",
        "{{ c }}<|extra_0|>",
        "<think>\n\n</think>\n<answer>\n{{ c }}\n</answer><|eos|>",
        "<think>\n",
        "<|extra_0|><think>\n\n</think>\n<answer>\n",
    ),
    "ERNIE-4.5": _template(
        "<|begin_of_sentence|>",
        "User: {{ c }}\n",
        "Assistant: {{ c }}<|end_of_sentence|>",
        "Assistant: ",
        "\nAssistant: ",
    ),
}
