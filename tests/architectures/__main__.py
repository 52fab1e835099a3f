"""Try every type of model that the installed transformers has, and write the table of the README."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers.utils import logging

from tests.architectures.journey import Outcome, travel
from tests.architectures.registry import model_types
from tests.architectures.results import write_results


def main(names: list[str]) -> int:
    """Try the types of these names, or all of them; the results of all are stored if all hold."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    outcomes: dict[str, Outcome] = {}
    failed = []
    for model_type in model_types():
        if names and model_type.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[str(model_type)] = outcome = travel(model_type, Path(folder))
            except AssertionError as error:
                failed.append(model_type)
                _say(f"{model_type}: {error}")
            else:
                _say(f"{model_type}: {outcome.refusal or 'holds'}")
    if not names and not failed:
        write_results(transformers.__version__, outcomes)
    return bool(failed)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
