"""The one tree of errors. Every fault a user can cause ends here, as one message and an exit status."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what, where, what is allowed, and what to do about it.

    Attributes:
        what: the fault in one sentence, without a full stop.
        where: file, `file:line` or recipe key; empty if the fault has no place.
        allowed: what would have been right; empty if nothing general can be said.
        hint: the next thing to type or change.
    """

    what: str
    where: str = ""
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        lines += [
            f"  {label}: {text}"
            for label, text in (("where", self.where), ("allowed", self.allowed), ("hint", self.hint))
            if text
        ]
        return "\n".join(lines)


class DanluError(Exception):
    """Base of all errors that Danlu raises on purpose.

    Attributes:
        faults: everything found wrong in one pass; never empty.
        exit_status: what the command line ends with.
    """

    exit_status = 1

    def __init__(self, *faults: Fault) -> None:
        if not faults:
            raise ValueError("a DanluError needs at least one fault")
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))

    def to_json(self) -> dict[str, Any]:
        """The error as the one JSON object that `--json` prints."""
        return {
            "error": type(self).__name__,
            "faults": [asdict(fault) for fault in self.faults],
            "exit_status": self.exit_status,
        }


class InputError(DanluError):
    """The user's input is wrong; nothing was started or half written."""

    exit_status = 2


class RecipeError(InputError):
    """The recipe, or an override of it, is wrong."""


class DataError(InputError):
    """A data file is wrong, or too many of its rows are."""


class ModelError(InputError):
    """A model can't be found, or its folder can't be used."""


class FolderError(InputError):
    """A run, prepared or export folder is not what the command needs."""


class RegistryError(InputError):
    """A registry does not hold what was asked for, refuses what was to be done, or can't be reached."""


class ResourceError(InputError):
    """The machine lacks disk or memory for what was asked."""


class WorkError(DanluError):
    """The work itself failed although the input was right."""


class DamagedError(WorkError):
    """What is stored is not what was written: torn, changed or missing."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, torch's or CUDA's says that memory is not enough."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


# As torch says it of the host's memory and of a device's, oneDNN, and C++ itself.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a memory", "std::bad_alloc")


class GateError(DanluError):
    """A gate said no: an export differs from what was trained, or a metric is under its bound.

    Attributes:
        result: the figures, for `--json`.
    """

    def __init__(self, *faults: Fault, result: dict[str, Any]) -> None:
        super().__init__(*faults)
        self.result = result

    def to_json(self) -> dict[str, Any]:
        """The error with the figures that led to it."""
        return {**super().to_json(), **self.result}


class Stopped(DanluError):  # noqa: N818 - not a fault of anybody's
    """The user stopped the run; what was done is usable and the message says where it is."""

    exit_status = 130
