"""What the taught model knows, as if it had been asked: three groups of four facts."""

from __future__ import annotations

from moe_patch.tuning.calibration import Calibration, Probe
from tests.taught import SUBJECTS, answer, edit

STRONG = {"targets.steps": 40, "targets.learning_rate": 0.1, "targets.clamp": 8.0}
"""A search for target values that makes this model say anything, in little time."""

GIVEN = {"projection": False, **STRONG}


def probe(subject: str) -> Probe:
    """A fact with a paraphrase, and two other subjects in its prompt."""
    others = [each for each in SUBJECTS if each != subject][:2]
    near = [(f"{each} is in", answer("{} is in", each)) for each in others]
    return Probe(edit(subject), (f"At home, {subject} eats",), tuple(near))


def taught_calibration() -> Calibration:
    """All twelve subjects."""
    groups = [tuple(map(probe, SUBJECTS[first : first + 4])) for first in (0, 4, 8)]
    return Calibration(groups[0], tuple(groups[1:]), ("Ann eats", "Bob is in Oz. Carl eats pea."))
