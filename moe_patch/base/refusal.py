"""What transformers raises for files that it cannot make a model of, as one error with a short message.

A folder comes from anywhere: files are cut short, configs hold values that no model can have, weights do not
have the config's shapes. transformers checks little of this, and fails wherever the value is first used: with
a division by zero, a missing key, an attribute of None. Only its own code runs inside `transformers_reads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from moe_patch.errors import ModelError

_LONGEST = 400  # characters; some messages list every model class

_SAYS_ENOUGH = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError)
"""Errors that transformers raises on purpose. Of the others, the name is part of what they say."""

_BY_ACCIDENT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    UnpicklingError,  # torch reads by its own rules what an index names and is no safetensors
)


@contextmanager
def transformers_reads(what: str, *, do: str = "open") -> Iterator[None]:
    """Turn what goes wrong inside the block into one error.

    Args:
        what: is read, as in "the model 'x'".
        do: what is done with it, as in "cannot open the model 'x'".

    Raises:
        ModelError: transformers cannot do it, or there is no memory for it.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(
            f"there is not enough memory for {what}: spread it with --device-map auto, offload layers with "
            f"--offload-folder, or use a smaller type with --dtype bfloat16 ({_short(error)})"
        ) from error
    except _SAYS_ENOUGH as error:
        raise ModelError(f"cannot {do} {what}: {_short(error)}") from error
    except _BY_ACCIDENT as error:
        raise ModelError(f"cannot {do} {what}: {type(error).__name__}: {_short(error)}") from error
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises has no class of its own
            raise
        raise ModelError(f"cannot {do} {what}: {_short(error)}") from error


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
