"""Where a model is, by what people call it: the demo model's name, a folder, or a name on the Hub.

Every command and every function that takes the name of a base asks here, so that a name means one model
everywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from moe_patch.errors import ModelError
from moe_patch.io.shipped import DEMO, demo_model, is_demo
from moe_patch.io.wording import did_you_mean

_SECONDS = 10.0  # for the Hub to answer whether it has a model
_CONFIG = "config.json"

_NoAnswer: type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP library of the Hub's client


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A model that was found."""

    name: str  # what messages call it
    folder: Path | None  # with its files on this machine; None if they are to be fetched from the Hub

    @property
    def source(self) -> str:
        """What transformers opens: the folder, or the name on the Hub."""
        return self.name if self.folder is None else str(self.folder)

    @property
    def recorded(self) -> str:
        """What a file calls it, so that it is found from any working folder: a folder by its whole path."""
        local = self.folder is not None and self.name == str(self.folder)
        return str(Path(self.name).absolute()) if local else self.name


def find_model(
    name: str | Path | None, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> ModelPlace:
    """Find a model, without fetching it.

    A folder comes first, then the demo model's name, then the Hub. The Hub is asked once, without a second
    try. If it cannot be reached, what was fetched before is taken.

    Args:
        name: as people name it; None is the demo model.
        revision: of a model on the Hub.
        cache_dir: of the Hub's client.

    Raises:
        ModelError: there is no such folder and no such model on the Hub, or the Hub cannot be reached and
            the model was not fetched before.
    """
    if is_demo(name):
        return ModelPlace(DEMO, demo_model())
    text = str(name)
    try:
        if text and Path(text).is_dir():  # an empty path is the working folder
            return ModelPlace(text, Path(text))
        if Path(text).is_file():
            raise ModelError(f"cannot open the model {text!r}: it is a file; name its folder")
    except OSError as error:
        raise ModelError(f"cannot open the model {text!r}: {error.strerror or error}") from error
    if isinstance(name, Path) or _is_path(text):
        raise ModelError(f"cannot open the model {text!r}: there is no such folder{_neighbours(text)}")
    return ModelPlace(text, _fetched(text, revision, cache_dir))


def recorded_model(name: str) -> ModelPlace:
    """Find a model that a file names by `ModelPlace.recorded`: there the demo model's name is never a folder.

    Raises:
        ModelError: as for `find_model`.
    """
    return ModelPlace(DEMO, demo_model()) if name == DEMO else find_model(name)


def _is_path(text: str) -> bool:
    """Whether a name can only be a path: no model on the Hub is called so."""
    windows = os.altsep is not None and os.sep in text
    return text.startswith((".", "/", "~")) or text.endswith("/") or text.count("/") > 1 or windows


def _neighbours(text: str) -> str:
    """A hint at folders beside `text` with nearly its name."""
    path = Path(text)
    try:
        beside = [one.name for one in path.parent.iterdir() if one.is_dir()]
    except (OSError, ValueError):  # as of a path with a zero in it
        return ""
    return did_you_mean(path.name, beside)


def _fetched(name: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    """The folder of what was fetched before if the Hub cannot be reached; None if the Hub has the model.

    Raises:
        ModelError: the Hub does not have it; or it does not answer, and nothing was fetched before.
    """
    try:
        HfApi().model_info(name, revision=revision, timeout=_SECONDS)
    except (HFValidationError, RepositoryNotFoundError) as error:
        hint = did_you_mean(name, [DEMO]) or _neighbours(name)
        unseen = "" if isinstance(error, HFValidationError) else " that you may see (`hf auth login`)"
        raise ModelError(
            f"cannot open the model {name!r}: there is no such folder here, and no such model on the Hub"
            f"{unseen}{hint}"
        ) from error
    except (_NoAnswer, OSError, ValueError) as error:
        kept = try_to_load_from_cache(name, _CONFIG, cache_dir=cache_dir, revision=revision)
        if isinstance(kept, str):
            return Path(kept).parent
        raise ModelError(
            f"cannot open the model {name!r}: there is no such folder here, it was not fetched before, and "
            f"{_why(error)}{did_you_mean(name, [DEMO]) or _neighbours(name)}"
        ) from error
    return None


def _why(error: BaseException) -> str:
    """Why the Hub was of no help, in a line."""
    if isinstance(error, OfflineModeIsEnabled):
        return "$HF_HUB_OFFLINE says not to ask the Hub"
    said = " ".join(str(error).split()) or type(error).__name__
    return (
        f"the Hub cannot be reached ({said[:200]})" if not isinstance(error, HfHubHTTPError) else said[:200]
    )
