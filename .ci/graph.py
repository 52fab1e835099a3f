"""How the packages of moe_patch stand on each other: floors, arrows that go back, files in the root.

    python .ci/graph.py [CHECKOUT]

A floor is what can be laid before anything that imports it: their number is the longest way through the
imports. An arrow goes back where two packages, or two modules, lie on a circle of imports. Imports inside of
functions and for types count: who reads a file has to know those names too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from grimp import build_graph
from rich.console import Console
from rich.table import Table

PACKAGE = "moe_patch"
Arrows = Mapping[str, set[str]]  # from importer to imported


def module_arrows() -> dict[str, set[str]]:
    """Every module below the package, with what it imports; the package's own lazy names are left out."""
    graph = build_graph(PACKAGE, cache_dir=None)
    modules = graph.modules - {PACKAGE}
    return {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}


def child_of(module: str) -> str:
    """The package or root module of `moe_patch` that a module belongs to."""
    return ".".join(module.split(".")[:2])


def package_arrows(modules: Arrows) -> dict[str, set[str]]:
    """The same between the packages and root modules themselves."""
    found: dict[str, set[str]] = {child_of(module): set() for module in modules}
    for module, imported in modules.items():
        found[child_of(module)] |= {child_of(other) for other in imported} - {child_of(module)}
    return found


def reached(arrows: Arrows) -> dict[str, set[str]]:
    """What each node imports, directly or through others."""
    found: dict[str, set[str]] = {}
    for start in arrows:
        seen, waiting = set(), list(arrows[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += arrows[node]
        found[start] = seen
    return found


def back_arrows(arrows: Arrows) -> list[tuple[str, str]]:
    """The arrows that lie on a circle."""
    reach = reached(arrows)
    return sorted(
        (node, other) for node, others in arrows.items() for other in others if node in reach[other]
    )


def floors(arrows: Arrows) -> int:
    """The longest way through the imports, what lies on one circle counting as one."""
    reach = reached(arrows)
    circle = {node: min({other for other in reach[node] if node in reach[other]} | {node}) for node in arrows}
    height: dict[str, int] = {}
    for node in sorted(arrows, key=lambda node: len(reach[node] | {node})):  # fewest reached first
        below = [height[circle[other]] for other in reach[node] if circle[other] != circle[node]]
        height[circle[node]] = max([height.get(circle[node], 1), *(floor + 1 for floor in below)])
    return max(height.values())


def root_files(folder: Path) -> list[str]:
    """The files in the package's own folder."""
    return sorted(path.name for path in (folder / PACKAGE).iterdir() if path.is_file())


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    """Arrows in words, without the package's name."""
    return (
        ", ".join(" -> ".join(name.removeprefix(f"{PACKAGE}.") for name in pair) for pair in pairs) or "none"
    )


@click.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
def main(checkout: Path) -> None:
    """Print what the import graph of a checkout is like."""
    sys.path.insert(0, str(checkout.resolve()))
    modules = module_arrows()
    packages = package_arrows(modules)
    files = root_files(checkout)
    table = Table("figure", "value", "which")
    table.add_row("files in moe_patch/", str(len(files)), ", ".join(files))
    for name, arrows in (("packages", packages), ("modules", modules)):
        back = back_arrows(arrows)
        table.add_row(name, str(len(arrows)))
        table.add_row(f"floors of {name}", str(floors(arrows)))
        table.add_row(f"back arrows of {name}", str(len(back)), listed(back))
    Console().print(table)


if __name__ == "__main__":
    main()
