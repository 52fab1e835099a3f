"""How long-running work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called as progress(stage, done, total), with a stage named in plain words ("targets", "facts edited", ...).
Progress = Callable[[str, int, int], None]
