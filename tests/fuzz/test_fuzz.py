"""Mutated files of every kind: each is taken or refused in one line. The seed is in every failure."""

from __future__ import annotations

import pytest

from tests.fuzz.commands import COMMANDS
from tests.fuzz.files import KINDS, Originals
from tests.fuzz.patches import put_together, take_apart
from tests.fuzz.runner import Failure, fuzz

FILES, PARTS = 2000, 4
SEED = 0


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    found = Originals(tmp_path_factory.mktemp("originals"))
    found.write()
    return found


def test_what_was_taken_apart_is_put_together_with_the_same_hash(originals: Originals) -> None:
    for name in KINDS["patch"].names:
        parts = take_apart((originals.folder / name).read_bytes())
        assert take_apart(put_together(parts)) == parts
    assert KINDS.keys() == COMMANDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_file_leads_to_more_than_one_line(originals: Originals, part: int) -> None:
    numbers = range(part * FILES // PARTS, (part + 1) * FILES // PARTS)
    failures: list[Failure] = list(fuzz(originals, SEED, numbers))
    said = "\n".join(f"--seed {SEED} --only {one.number}: {one.command}\n{one.what}" for one in failures[:3])
    assert not failures, f"python -m tests.fuzz {said}"


def test_a_command_that_fails_is_noticed(originals: Originals, monkeypatch: pytest.MonkeyPatch) -> None:
    from moe_patch.patch import file

    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(file, "parse_metadata", broken)
    assert next(fuzz(originals, SEED, range(200)), None) is not None
