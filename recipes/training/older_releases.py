"""Names that transformers before 5 has for what 5 writes by others, so that both read one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_patch.io.files import write_text


def spell_for_older_releases(folder: Path) -> None:
    """Add the older names to the configs in `folder`; those of 5 stay.

    Release 4 takes 128 experts where it finds no `num_experts`, knows no tokenizer class of 5's, and sets the
    space in front of the first word as the config says, whatever `tokenizer.json` has.
    """
    tokenizer = _read(folder / "tokenizer.json")
    config = _read(folder / "config.json")
    _add(
        folder / "config.json",
        num_experts=config["num_local_experts"],
        rope_theta=config["rope_parameters"]["rope_theta"],
    )
    _add(
        folder / "tokenizer_config.json",
        add_prefix_space=tokenizer["pre_tokenizer"]["add_prefix_space"],
        tokenizer_class="PreTrainedTokenizerFast",
    )


def _add(path: Path, **fields: Any) -> None:
    write_text(path, json.dumps(_read(path) | fields, indent=2, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields
