"""The errors of moe-patch.

Every expected failure is a `MoePatchError`. Its message is whole: it names the thing, the place, what was
expected and, where there is something to do, what to do. Anything else that escapes is a defect of this
library.
"""

# ruff: noqa: N818  the errors of a patch are named for what is wrong with it; "Error" would say nothing more

from __future__ import annotations


class MoePatchError(Exception):
    """Base of every expected error; the command line prints it as one line."""


class ConfigError(MoePatchError):
    """An option, a hyper-parameter or a configuration file is unknown, of the wrong type or out of range."""


class OutputError(MoePatchError):
    """A file could not be written; what stood in its place before is untouched."""


class FactError(MoePatchError):
    """A facts file, or one fact in it, cannot be used; `field` names the part of the fact, if it is one."""

    def __init__(self, problem: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field


class ModelError(MoePatchError):
    """A model, or one of its layers, cannot be opened or edited."""


class CaptureError(MoePatchError):
    """Keys, gates or routing could not be observed inside a model."""


class StatisticsError(MoePatchError):
    """Key statistics are missing, too thin or do not belong to this base."""


class BypassError(MoePatchError):
    """A bypass cannot tell which expert a forward pass belongs to, or runs in a way it was not made for."""


class TargetError(MoePatchError):
    """Target values could not be found for a fact."""


class EvaluationError(MoePatchError):
    """A patch could not be evaluated on these facts."""


class NoChatTemplate(TargetError, EvaluationError):
    """Prompts are to be put under a chat template, to search or to score, and the tokenizer has none."""


class StackError(MoePatchError):
    """A stack, or an operation on it, makes no sense: no such patch, another base, facts that contradict."""


class UnclearPatch(StackError):
    """A name means no patch of a list, or several, whose hashes are `meant`."""

    def __init__(self, message: str, meant: tuple[str, ...]) -> None:
        super().__init__(message)
        self.meant = meant


class HubError(MoePatchError):
    """The Hub cannot be reached, does not hold what was asked for, or refuses to take a patch."""


class PatchError(MoePatchError):
    """A patch cannot be read, written or applied. The subclasses below say which of these it is."""


class TruncatedPatch(PatchError):
    """The file is shorter or longer than its own header declares."""


class PatchTooLarge(PatchError):
    """The file declares more than the reader's limits allow; nothing of it has been allocated."""


class MalformedHeader(PatchError):
    """The safetensors header is not the JSON object that its specification asks for."""


class MalformedLayout(PatchError):
    """Tensors overlap, leave holes, leave the file, or take other than shape times item size bytes."""


class MalformedMetadata(PatchError):
    """The patch metadata is missing, not canonical JSON, or does not follow its schema."""


class UnknownFormat(PatchError):
    """The file is of a format version that this library does not read."""


class MalformedTensor(PatchError):
    """A tensor is missing, unexpected, of the wrong dtype or shape, out of order, or out of range."""


class NotFinite(PatchError):
    """A tensor holds NaN or an infinity."""


class HashMismatch(PatchError):
    """The content does not have the hash that the file declares."""


class Unsigned(PatchError):
    """A signature is required, and there is none."""


class BadSignature(PatchError):
    """A signature is malformed, is of another patch, or is not by a key that is trusted."""


class WrongBase(PatchError):
    """The patch was built for another base model."""


class SolveError(MoePatchError):
    """A layer's system cannot be posed or solved: shapes do not fit, or it is not positive definite."""
