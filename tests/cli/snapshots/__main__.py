"""Write the snapshots anew, after a change that is meant: python -m tests.cli.snapshots"""

from __future__ import annotations

from tests.cli.snapshots.drawn import DRAWN, WIDTHS, drawn, snapshot

if __name__ == "__main__":
    for name in DRAWN:
        for width in WIDTHS:
            snapshot(name, width).write_text(drawn(name, width), encoding="utf-8", newline="\n")
