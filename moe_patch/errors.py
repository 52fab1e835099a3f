"""The errors of moe-patch.

Every expected failure is a `MoePatchError`. Its message can be read alone: it names the thing, the place,
what was expected and, if something can be done, what to do. Any other exception is a bug in this library.
"""

# ruff: noqa: N818  the errors of a patch are named for what is wrong with it; "Error" would say nothing more

from __future__ import annotations


class MoePatchError(Exception):
    """Base of every expected error; the command line prints it as one line."""


class ConfigError(MoePatchError):
    """An option, a hyper-parameter or a configuration file is unknown, of the wrong type or out of range."""


class OutputError(MoePatchError):
    """A file could not be written. The file that was there before is unchanged."""


class FactError(MoePatchError):
    """A facts file, or one fact in it, cannot be used.

    `field` names the field of the fact that is wrong. It is empty if no single field is.
    """

    def __init__(self, problem: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field


class UnclearFact(FactError):
    """A text does not say for certain what its subject or its answer is.

    `candidates` are the parts of the text that could be it, the likelier ones first.
    """

    def __init__(self, problem: str, *, field: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(problem, field=field)
        self.candidates = candidates


class ModelError(MoePatchError):
    """A model, or one of its layers, cannot be opened or edited."""


class CaptureError(MoePatchError):
    """Keys, gates or routing could not be observed inside a model."""


class StatisticsError(MoePatchError):
    """Key statistics are missing, come from too few tokens, or do not belong to this base."""


class NumericalError(MoePatchError):
    """Something that was computed is NaN or infinite, so nothing that follows from it means anything."""


class BypassError(MoePatchError):
    """A bypass cannot tell which expert a forward pass belongs to, or is run in a way it does not support."""


class TargetError(MoePatchError):
    """Target values could not be found for a fact."""


class EvaluationError(MoePatchError):
    """A patch could not be evaluated on these facts."""


class JudgeError(EvaluationError):
    """The judge of answers cannot be reached, or does not reply as asked."""


class PromptError(TargetError, EvaluationError):
    """A text cannot be turned into tokens that mean it and that the model can read."""


class NoChatTemplate(PromptError):
    """The chat template was asked for, but the tokenizer has none."""


class TuningError(MoePatchError):
    """Good options cannot be searched: the base knows too little, or the time or the method does not do."""


class StackError(MoePatchError):
    """A stack, or an operation on it, is impossible: no such patch, another base, facts that contradict."""


class UnclearPatch(StackError):
    """A name matches no patch of a list, or several. `meant` holds the hashes of those that it matches."""

    def __init__(self, message: str, meant: tuple[str, ...]) -> None:
        super().__init__(message)
        self.meant = meant


class HubError(MoePatchError):
    """The Hub cannot be reached, does not have what was asked for, or refuses an upload."""


class PatchError(MoePatchError):
    """A patch cannot be read, written or applied. The subclasses below say why."""


class TruncatedPatch(PatchError):
    """The file is shorter or longer than its own header declares."""


class PatchTooLarge(PatchError):
    """The file declares more than the reader's limits allow. No memory was allocated for it."""


class MalformedHeader(PatchError):
    """The safetensors header is not the JSON object that the safetensors format requires."""


class MalformedLayout(PatchError):
    """Tensors overlap, leave gaps, reach past the file's end, or have a size that contradicts their shape."""


class MalformedMetadata(PatchError):
    """The patch metadata is missing, not canonical JSON, or does not follow its schema."""


class UnknownFormat(PatchError):
    """The file has a format version that this library does not read."""


class MalformedTensor(PatchError):
    """A tensor is missing, unexpected, of the wrong dtype or shape, out of order, or out of range."""


class NotFinite(PatchError):
    """A tensor of a patch holds NaN or an infinity."""


class HashMismatch(PatchError):
    """The content's hash is not the one that the file declares."""


class Unsigned(PatchError):
    """A signature is required, but there is none."""


class BadSignature(PatchError):
    """A signature is malformed, belongs to another patch, or was made with a key that is not trusted."""


class WrongBase(PatchError):
    """The patch was built for another base model."""


class OversizedEdit(PatchError):
    """A patch changes an expert by many times what the expert itself is."""


class SolveError(MoePatchError):
    """A layer's linear system cannot be solved: shapes do not fit, or it is not positive definite."""
