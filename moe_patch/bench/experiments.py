"""The experiments of a suite: one for each arm, data set, number of facts, mode and seed."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.bench.suite import EACH, Arm, Mode, Suite
from moe_patch.building.edits import notes_on, read_edits
from moe_patch.building.given import NAMES
from moe_patch.building.job import Tell
from moe_patch.data.fact_file import FactFile
from moe_patch.data.facts import fact_json
from moe_patch.data.schemas import ZSRE_SCHEMAS, ZsreSchema
from moe_patch.errors import ConfigError
from moe_patch.io.strict_json import canonical_json
from moe_patch.methods import get_method
from moe_patch.methods.overrides import dotted, option_names
from moe_patch.methods.recipes import recipe_for


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The facts of one file."""

    name: str  # of the file, without its ending
    facts: FactFile
    most: int | None  # how many of them, unless the suite's `facts` says it

    def some(self, count: int | None, sample: str, seed: int) -> FactFile:
        """The first `count` facts, or as many that the seed draws; all of them for None.

        Raises:
            ConfigError: there are fewer.
        """
        count = count or self.most or len(self.facts)
        if count > len(self.facts):
            raise ConfigError(f"{self.name}: expected {count} facts, found {len(self.facts)}: ask for fewer")
        if sample == "first":
            return self.facts[:count]
        drawn = random.Random(seed).sample(range(len(self.facts)), count)
        return FactFile(tuple(self.facts.facts[i] for i in drawn), (), self.facts.schema)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One build and its measurements."""

    arm: str
    method: str
    recipe: str | None
    given: Mapping[str, JsonValue]  # options by dotted names
    borrowed: tuple[str, ...]  # those of them that come from another method's recipe
    data: str  # the material's name
    facts: FactFile = field(repr=False, compare=False)
    mode: Mode
    batch_size: int | None  # facts solved together; None for all of them
    seed: int
    varied: Mapping[str, JsonValue] = field(default_factory=dict)  # the values of a sweep

    @property
    def facts_hash(self) -> str:
        """SHA-256 of the facts and of how they are scored."""
        told: list[JsonValue] = [self.facts.schema, *map(fact_json, self.facts)]
        return f"sha256:{hashlib.sha256(canonical_json(told).encode()).hexdigest()}"

    @property
    def title(self) -> str:
        """The experiment in a line."""
        batch = f" of {self.batch_size}" if self.mode == "sequential-batch" else ""
        return f"{self.arm}: {len(self.facts)} facts of {self.data}, {self.mode}{batch}, seed {self.seed}"


def read_materials(
    suite: Suite,
    edits: Sequence[Path],
    *,
    folder: Path,
    schema: ZsreSchema | None = None,
    skip_invalid: bool = False,
    tell: Tell | None = None,
) -> list[Material]:
    """The facts that a suite is run on: those of the user's files, else those of its own.

    Args:
        suite: the suite.
        edits: the user's files.
        folder: where the suite's own paths start.
        schema: of ZsRE records; None for what the suite says, or the usual one.
        skip_invalid: leave out records that cannot be used.
        tell: called with what the user should know of the files.

    Raises:
        ConfigError: there is no file, or two have one name.
        FactError: a file cannot be used.
    """
    wanted = [data.records for data in suite.data]
    zsre = schema or next((each for each in ZSRE_SCHEMAS if each in wanted), None)
    own = [(folder / data.file, data.facts) for data in suite.data if data.file is not None]
    files = [(path, None) for path in edits] or own
    if not files:
        raise ConfigError(f"the suite {suite.name} has no facts of its own: name a file with --edits")
    found: list[Material] = []
    for path, most in files:
        read = _read(path, zsre, skip_invalid)
        if tell is not None:
            _tell(tell, path, read, wanted)
        data = next((data for data in suite.data if data.records == read.schema), None)
        found.append(Material(path.stem, read, _fewer(most or (data.facts if data else None), read)))
    names = [material.name for material in found]
    if len(set(names)) != len(names):
        raise ConfigError(f"two files of facts are called {max(names, key=names.count)!r}: rename one")
    return found


def _tell(tell: Tell, path: Path, read: FactFile, wanted: Sequence[str]) -> None:
    """What a user should know of a file."""
    for note in notes_on(read, path):
        tell(note)
    if wanted and read.schema not in wanted:
        tell(f"{path}: {read.schema} records; the suite is about {', '.join(wanted)}")


def _read(path: Path, zsre: ZsreSchema | None, skip_invalid: bool) -> FactFile:
    read = read_edits(path, skip_invalid=skip_invalid)
    if zsre is None or read.schema not in ZSRE_SCHEMAS or read.schema == zsre:
        return read
    return read_edits(path, schema=zsre, skip_invalid=skip_invalid)


def _fewer(most: int | None, read: FactFile) -> int | None:
    """The paper's number of facts, or all that a smaller file has."""
    return None if most is None else min(most, len(read))


def expand(suite: Suite, materials: Sequence[Material], base: Base) -> list[Experiment]:
    """All experiments of a suite, in the order in which they are run.

    Args:
        suite: the suite.
        materials: the facts.
        base: the model, for sweeps over its layers and for the recipe that others borrow from. It may have
            no weights.

    Raises:
        ConfigError: a material has too few facts.
    """
    found = []
    counts: list[int | None] = [*suite.facts] or [None]
    for material, count, seed in itertools.product(materials, counts, suite.seeds):
        facts = material.some(count, suite.sample, seed)
        for arm, (mode, size) in itertools.product(suite.all_arms, _schedules(suite)):
            for varied in _variants(suite, arm, base):
                given, borrowed = _given(suite, arm, base, varied, size, seed)
                found.append(
                    Experiment(
                        arm=arm.title + _suffix(varied),
                        method=arm.method,
                        recipe=arm.recipe,
                        given=given,
                        borrowed=borrowed,
                        data=material.name,
                        facts=facts,
                        mode=mode,
                        batch_size=size,
                        seed=seed,
                        varied=varied,
                    )
                )
    return found


def _schedules(suite: Suite) -> list[tuple[Mode, int | None]]:
    """Each mode with the number of facts that are solved together."""
    found: list[tuple[Mode, int | None]] = []
    for mode in suite.modes:
        if mode == "sequential-batch":
            found += [(mode, size) for size in suite.batch_sizes]
        else:
            found.append((mode, None if mode == "batch" else 1))
    return found


def _variants(suite: Suite, arm: Arm, base: Base) -> Iterator[dict[str, JsonValue]]:
    """Every combination of the values that the arm's sweep and the suite's give to its method's options."""
    known = set(option_names(get_method(arm.method).Options))
    axes = {name: values for name, values in suite.sweep.items() if name in known} | arm.sweep
    lists: list[list[JsonValue]] = [
        [[layer] for layer in sorted(base.layers)] if values == EACH else list(values)
        for values in axes.values()
    ]
    for values in itertools.product(*lists):
        yield dict(zip(axes, values, strict=True))


def _suffix(varied: Mapping[str, JsonValue]) -> str:
    return "".join(f", {name}={canonical_json(value)}" for name, value in varied.items())


def _given(
    suite: Suite, arm: Arm, base: Base, varied: Mapping[str, JsonValue], size: int | None, seed: int
) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """The options of one experiment, and which of them are borrowed."""
    known = set(option_names(get_method(arm.method).Options))
    borrowed = _borrowed(suite, arm, base, known)
    given = dict(borrowed)
    given |= {name: value for name, value in suite.options.items() if name in known}
    given |= dict.fromkeys(known.intersection(NAMES["batch_size"]), size)
    given |= dict.fromkeys(known.intersection(NAMES["seed"]), seed)
    return {**given, **arm.options, **varied}, tuple(borrowed)


def _borrowed(suite: Suite, arm: Arm, base: Base, known: set[str]) -> dict[str, JsonValue]:
    """What the method takes from the recipe of the suite's `borrow`, by dotted names."""
    recipe = recipe_for(base)
    if suite.borrow is None or recipe is None or arm.recipe is not None or recipe.method_options(arm.method):
        return {}
    values = {
        name: value
        for name, value in recipe.method_options(suite.borrow.method).items()
        if name in suite.borrow.options
    }
    flat = dict(dotted(values))
    if "layer" in known and flat.get("layers"):
        flat["layer"] = flat["layers"][-1]
    return {name: value for name, value in flat.items() if name in known}
