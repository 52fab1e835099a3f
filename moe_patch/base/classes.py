"""Which class of transformers opens a model: the type in its config decides, not what happens to load.

Checkpoints that also see or hear keep their text model inside a composite. The class for plain text comes
first where a type has both: it leaves the rest of the checkpoint on the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
)

from moe_patch.base.refusal import transformers_reads
from moe_patch.errors import ModelError

_CLASSES: tuple[tuple[Any, Any], ...] = (
    (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
)


def read_config(place: str | Path) -> PreTrainedConfig:
    """The config of a model, by its folder or its name on the Hub.

    Raises:
        ModelError: `place` is a file, or a folder with a pipe or a device in it; there is no config, its
            values contradict one another, or this release of transformers does not know its type.
    """
    _check_place(Path(place))
    with transformers_reads(f"the model {str(place)!r}"):
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(place)
        except ValueError as error:  # its text may list every type there is
            raise ValueError(_why_no_type(place) or error) from error
    return config


def text_class(config: PreTrainedConfig) -> Any:
    """The auto class of transformers whose model of this config continues text.

    Raises:
        ModelError: there is none.
    """
    for mapping, auto in _CLASSES:
        if type(config) in mapping:
            return auto
    raise ModelError(
        f"{config.model_type} cannot be edited: transformers {transformers.__version__} has no class for it "
        "that continues text; if it is one part of a model, open the whole model"
    )


def _check_place(place: Path) -> None:
    """Refuse what libraries would read as a config or as weights without an end, or wait for forever."""
    try:
        if not place.is_dir():
            if place.exists():
                raise ModelError(f"cannot open the model {str(place)!r}: it is a file; name its folder")
            return
        for path in sorted(place.iterdir()):
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ModelError(
                    f"cannot open the model {str(place)!r}: {path.name} is a pipe or a device, not a file"
                )
    except OSError as error:
        raise ModelError(f"cannot open the model {str(place)!r}: {error.strerror or error}") from error


def _why_no_type(place: str | Path) -> str | None:
    """What is wrong with the type that a config names; None if nothing is."""
    named, _ = PreTrainedConfig.get_config_dict(place)
    model_type = named.get("model_type")
    if model_type is None:
        return "its config.json names no model_type"
    if model_type not in CONFIG_MAPPING:
        return (
            f"transformers {transformers.__version__} does not know its model type {model_type!r}; a newer "
            "release may"
        )
    return None
