"""Differences between two stacks, or two revisions of one, from their lock files alone."""

from __future__ import annotations

from moe_patch.stack.lockfile import Lock


def compare_locks(before: Lock, after: Lock) -> list[str]:
    """Describe the changes to a stack, one line for each patch or setting that differs."""
    old = {entry.hash: (number, entry) for number, entry in enumerate(before.patch, start=1)}
    new = {entry.hash: (number, entry) for number, entry in enumerate(after.patch, start=1)}
    lines = [f"- {number} {entry.path}" for digest, (number, entry) in old.items() if digest not in new]
    kept = [digest for digest in new if digest in old]
    places = {digest: place for place, digest in enumerate(digest for digest in old if digest in new)}
    for digest, (number, entry) in new.items():
        if digest not in old:
            lines.append(f"+ {number} {entry.path}{'' if entry.enabled else ' (off)'}")
            continue
        was_at, was = old[digest]
        if places[digest] != kept.index(digest):
            lines.append(f"~ {number} {entry.path}: was number {was_at}")
        if was.enabled != entry.enabled:
            lines.append(f"~ {number} {entry.path}: {'on' if entry.enabled else 'off'}")
        if was.path != entry.path:
            lines.append(f"~ {number} {entry.path}: was {was.path}")
    if before.combine != after.combine:
        lines.append(f"~ combine: {after.combine}, was {before.combine}")
    return lines
