"""Suites: experiments as data. A suite is a YAML file that says what is built, on what, and how often.

    name: lambda
    title: What the ridge does
    modes: [sequential-batch]
    batch_sizes: [50]
    arms:
      - {method: moeedit, sweep: {ridge: [0.01, 0.1, 1]}}
      - {method: mote, name: "MoTE, unprojected", options: {projection: false}}

Options have dotted names, as for `--set`. Those of the suite count for every arm whose method has them, and
those of an arm for it alone. A sweep makes one arm of each combination of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from moe_patch.data.schemas import FileSchema
from moe_patch.errors import ConfigError
from moe_patch.evaluation.free.questions import MOST
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.reading import read_text
from moe_patch.io.shipped import shipped_folder
from moe_patch.methods import METHODS, get_method
from moe_patch.methods.overrides import merged_options, option_names

Mode = Literal["single", "batch", "sequential", "sequential-batch"]
"""How facts are given: each on the bare base, all together, one after the other, or batch after batch."""

EACH = "each"
"""In a sweep of layers: every layer with experts in turn, whichever the model has."""

_MAX_BYTES = 2**20
_SUFFIXES = {".yaml", ".yml"}
_LAYERS = ("layer", "layers")

Count = Annotated[int, Field(ge=1, le=10**9)]
Values = Annotated[list[JsonValue], Field(min_length=1, max_length=1000)]


class DataSet(ClosedSchema):
    """Facts that an experiment is about."""

    records: FileSchema  # the schema of the records; for ZsRE, it says what they edit to
    file: str | None = None  # relative to the suite; a suite without files takes the user's
    facts: Count | None = None  # how many of them


class Arm(ClosedSchema):
    """A method with options."""

    method: str
    name: str = ""  # in reports; the method's own by default
    recipe: str | None = None  # as for `build`
    options: dict[str, JsonValue] = Field(default_factory=dict)
    sweep: dict[str, Values | Literal["each"]] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name in reports, before a sweep adds to it."""
        return self.name or get_method(self.method).pretty_name


class Borrow(ClosedSchema):
    """What a method takes from another one's recipe where no recipe speaks of it, so that all edit alike."""

    method: str
    options: list[str] = Field(min_length=1)  # top-level names


class Suite(ClosedSchema):
    """One suite file."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.-]+$")
    title: str
    about: str = ""  # what it holds, and how far it is the paper's
    source: str | None = None  # the paper's address
    data: list[DataSet] = Field(default_factory=list)
    arms: Annotated[list[Arm], Field(min_length=1)] | Literal["all"]
    options: dict[str, JsonValue] = Field(default_factory=dict)
    sweep: dict[str, Values | Literal["each"]] = Field(default_factory=dict)
    borrow: Borrow | None = None
    modes: list[Mode] = Field(default=["sequential-batch"], min_length=1)
    batch_sizes: list[Count] = Field(default=[50], min_length=1)  # for the mode sequential-batch
    facts: list[Count] = Field(default_factory=list)  # how many, one run each; empty: as the data sets say
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)
    sample: Literal["first", "random"] = "first"  # which facts of a file; a random choice follows the seed
    checkpoints: list[Count] | None = None  # numbers of edited facts after which to ask; None: up to five
    asked: Count = 200  # facts asked about at each of them
    free_prompts: Count = MOST  # of a kind, after which the model writes freely
    buckets: Annotated[int, Field(ge=2, le=100)] | None = None  # of knowledge frequency; None: not measured

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("modes", "batch_sizes", "facts", "seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: expected different values, found {values}")
        return self

    @property
    def all_arms(self) -> list[Arm]:
        """The arms; for "all", one for each method of the registry."""
        return [Arm(method=name) for name in METHODS] if self.arms == "all" else self.arms

    def arms_with(self, methods: Sequence[str]) -> list[Arm]:
        """The arms with these methods, in the methods' order; one with defaults for each that has none."""
        own = {name: [arm for arm in self.all_arms if arm.method == name] for name in methods}
        return [arm for name, arms in own.items() for arm in arms or [Arm(method=name)]]


def shipped_suites() -> dict[str, Path]:
    """The suite files in the package, by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("suites/*.yaml"))}


def load_suite(name: str | Path) -> Suite:
    """A suite by its path, or by its name among those in the package.

    Raises:
        ConfigError: there is no such suite, the file is not a suite, or an arm's method or one of its options
            does not exist.
    """
    path = suite_path(name)
    suite = read_suite(path)
    check_arms(suite, str(path))
    return suite


def suite_path(name: str | Path) -> Path:
    """Where a suite is.

    Raises:
        ConfigError: there is no suite of that name.
    """
    path = Path(name)
    if path.suffix in _SUFFIXES:
        return path
    known = shipped_suites()
    if str(name) not in known:
        raise ConfigError(f"unknown suite {str(name)!r}: expected a .yaml file or one of {', '.join(known)}")
    return known[str(name)]


def read_suite(path: Path) -> Suite:
    """A suite file, whose methods need not exist.

    Raises:
        ConfigError: the file cannot be read, or it is not a suite.
    """
    try:
        text = read_text(path, _MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the suite {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a suite: it is not YAML in UTF-8: {error}") from error
    try:
        return Suite.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise ConfigError(f"{path} is not a suite: {strict_json.first_complaint(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a suite: {' '.join(str(error).split())}") from error


def check_arms(suite: Suite, place: str) -> None:
    """Check that every method exists and takes the options that it gets.

    Raises:
        ConfigError: one does not, or an option of the suite is one of no method's.
    """
    used: set[str] = set()
    for arm in suite.all_arms:
        known = _known(arm, place)
        for options in _tried(arm):
            merged_options(get_method(arm.method).Options, {}, options, f"{place}: {arm.title}")
        shared = {name: value for name, value in suite.options.items() if name in known}
        merged_options(get_method(arm.method).Options, {}, shared, place)
        used |= known
    unknown = [name for name in (*suite.options, *suite.sweep) if name not in used]
    if unknown:
        raise ConfigError(f"{place}: no method of the suite has an option {unknown[0]!r}")
    if suite.borrow is not None and suite.borrow.method not in METHODS:
        get_method(suite.borrow.method)


def _known(arm: Arm, place: str) -> set[str]:
    if arm.method not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise ConfigError(f"{place}: unknown method {arm.method!r}: expected one of {known}")
    return set(option_names(METHODS[arm.method].Options))


def _tried(arm: Arm) -> Iterator[dict[str, JsonValue]]:
    """The arm's options with each value of its sweep in turn."""
    yield dict(arm.options)
    for name, values in arm.sweep.items():
        if values == EACH:
            if name not in _LAYERS:
                raise ConfigError(f"{arm.title}: a sweep over {EACH!r} is for layers, not for {name!r}")
            yield {**arm.options, name: [0]}
            continue
        for value in values:
            yield {**arm.options, name: value}
