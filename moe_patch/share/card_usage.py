"""What a card says of loading a patch and taking it off: commands and code that can be copied."""

from __future__ import annotations

from moe_patch.patch.schema import Kind

_FILE = "patch.safetensors"

_PYTHON = """\
```python
import moe_patch

base = moe_patch.open_base("{base}"{dense})
patch = moe_patch.load("patch.safetensors")
with moe_patch.apply(base, patch):
    ...  # base.model says the new facts
# and here what it said before, with the same bits
```"""


def usage(kind: Kind, reference: str, base_model: str | None) -> str:
    """The sections about loading and removing.

    Args:
        kind: of the patch: what can be done with it follows from what it changes.
        reference: where it is pulled from.
        base_model: the base's name; None shows `BASE` in its place. Commands hold it unquoted.
    """
    base = base_model or "BASE"
    named = "" if base_model else " `BASE` is the folder of the base, or its name on the Hub."
    fetched = _commands(
        f"moe-patch pull {reference} --out {_FILE}",
        f"moe-patch inspect {_FILE}",
        f"moe-patch verify {_FILE} --model {base}",
    )
    parts = [f"## How to load it\n\nFetch and check it.{named}\n\n{fetched}", *_WAYS[kind](base)]
    return "\n\n".join(parts)


def _delta(base: str) -> list[str]:
    return [
        "Into a checkpoint, for every engine that opens the base:",
        _commands(f"moe-patch merge --model {base} --patch {_FILE} --out patched"),
        f"In Python:\n\n{_PYTHON.format(base=base, dense='')}",
        f"In vLLM, from the start:\n\n{_served(base)}",
        "In vLLM, while it runs:",
        _commands(f"moe-patch serve --model {base} --allow .", f"moe-patch live add {_FILE}"),
        "## How to take it off",
        "In Python it goes with the `with` block. From a checkpoint, and from a running server:",
        _commands("moe-patch unmerge patched --out restored", "moe-patch live remove patch"),
    ]


def _bypass(base: str) -> list[str]:
    return [
        f"In Python:\n\n{_PYTHON.format(base=base, dense=', allow_dense=True')}",
        f"In vLLM:\n\n{_served(base)}",
        "## How to take it off",
        "It changes no weights. In Python it goes with the `with` block; start vLLM without the stack.",
    ]


def _prompt(base: str) -> list[str]:
    return [
        "It rewrites prompts and changes no weights. The scores of the base that is asked so:",
        _commands(f"moe-patch eval {_FILE} --model {base}"),
        "## How to take it off\n\nAsk the base without it.",
    ]


_WAYS = {"delta": _delta, "bypass": _bypass, "prompt": _prompt}


def _served(base: str) -> str:
    return _commands(
        f"moe-patch stack init {_FILE}", f"moe-patch serve --model {base} --stack moe-patch.stack"
    )


def _commands(*lines: str) -> str:
    return "\n".join(("```sh", *lines, "```"))
