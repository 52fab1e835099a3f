"""The interface of an editing method: a name, a paper, options, and `build`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError
from moe_patch.io.ranges import check_ranges
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.patch import Patch
from moe_patch.patch.schema import Kind
from moe_patch.progress import Progress

__all__ = ["Method", "MethodOptions", "Progress"]


class MethodOptions(BaseModel):
    """Base of every method's options: unknown names and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def needs_text(self) -> bool:
        """Whether preserved text is used."""
        return False

    @model_validator(mode="after")
    def _can_be_recorded(self) -> Self:
        check_ranges(self.model_dump(mode="json"))  # a patch holds its options, and is written last
        return self


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(ABC, Generic[OptionsT]):
    """An editing method. A new one is a subclass in a file of its own and one line in the registry."""

    name: ClassVar[str]
    pretty_name: ClassVar[str]
    changes: ClassVar[str]  # what it changes in a model, in a few words
    kind: ClassVar[Kind] = "delta"  # of its patches
    rival: ClassVar[bool] = False  # whether it is here to compare with, and not this project's own
    Options: type[OptionsT]
    edits_dense: ClassVar[bool] = False  # whether it can edit bases without experts

    @classmethod
    @abstractmethod
    def reference_url(cls) -> str:
        """The address of the paper."""

    @abstractmethod
    def build(
        self, base: Base, facts: Sequence[Fact], options: OptionsT, progress: Progress | None = None
    ) -> Patch:
        """Build a patch with which `base` gives the answers of `facts`; the base itself does not change."""

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: OptionsT,
        earlier: EarlierEdits,
        progress: Progress | None = None,
    ) -> Patch:
        """Build on top of a stack of patches whose facts must keep their answers.

        Raises:
            ConfigError: the method cannot do that.
        """
        raise ConfigError(
            f"{self.pretty_name} cannot protect the facts of the stack it builds on: build on the bare base "
            "and solve the two together, or choose another method"
        )

    def rewriter(self, base: Base, patch: Patch) -> Callable[[str], str] | None:
        """What turns a prompt into the one to ask with `patch`; None if it is asked as it is, the default."""
        return None

    def options(self, **values: Any) -> OptionsT:
        """The options of these values, validated.

        Raises:
            pydantic.ValidationError: a name is unknown, or a value is invalid.
        """
        return self.Options(**values)
