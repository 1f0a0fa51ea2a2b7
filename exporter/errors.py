"""The ways a command can end without success, one class for each exit code of the command line."""


class ToolError(Exception):
    """A failure with a message written for the user: what is wrong, where, and what to do about it."""

    exit_code = 4


class VerdictError(ToolError):
    """The work was done and its answer is no: parity was not shown, or an engine is not what was asked for."""

    exit_code = 1


class InputError(ToolError):
    """Wrong use, or a file that cannot be what it is given as."""

    exit_code = 2


class EnvironmentLack(ToolError):
    """This machine lacks something: a package, a GPU, disk space or a permission."""

    exit_code = 3


class MissingPackage(EnvironmentLack):
    """A package of an extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with:  pip install 'memvp-export[{extra}]'")
