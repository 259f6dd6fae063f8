"""The exceptions of the package, one for each status of nostos.h that callers may want to tell apart."""


class Error(Exception):
    """What every function raises that fails. `status` is the nostos_status."""

    status: int = 7


class InvalidInputError(Error, ValueError):
    """A field, a value or a file that the caller can mend."""

    status = 1


class ModelError(Error):
    """A model that is missing, damaged or of an unknown kind."""

    status = 2


class DeviceError(Error):
    """A device that is unsupported, missing, or lost to this process (status 4)."""

    status = 3


class OutOfMemoryError(Error, MemoryError):
    """The host's or the device's memory is exhausted."""

    status = 5


class Cancelled(Error):
    """The drawing's Cancel was set."""

    status = 8


def error_of(status: int, message: str) -> Error:
    """Returns the exception that stands for a status."""
    kinds = {kind.status: kind for kind in (InvalidInputError, ModelError, DeviceError, OutOfMemoryError, Cancelled)}
    kinds[4] = DeviceError
    error = kinds.get(status, Error)(message)
    error.status = status
    return error
