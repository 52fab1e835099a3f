"""What every editing method is: a name, a paper, options, and `build`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from moe_patch.facts import Fact
from moe_patch.model import Base
from moe_patch.patch import Patch

#: Called as progress(stage, done, total), with a stage named in plain words ("targets", "batch 3 of 20", ...).
Progress = Callable[[str, int, int], None]


class MethodOptions(BaseModel):
    """Base of every method's options: unknown names and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


O = TypeVar("O", bound=MethodOptions)


class Method(ABC, Generic[O]):
    """An editing method. A new one is a subclass in a file of its own and one line in the registry."""

    name: ClassVar[str]
    pretty_name: ClassVar[str]
    Options: type[O]

    @classmethod
    @abstractmethod
    def reference_url(cls) -> str:
        """The paper."""

    @abstractmethod
    def build(self, base: Base, facts: Sequence[Fact], options: O, progress: Progress | None = None) -> Patch:
        """Build a patch for `base` that makes it say `facts`; the base is left as it was."""

    def options(self, **values: Any) -> O:
        """Validated options; unknown names raise pydantic's ValidationError."""
        return self.Options(**values)
