"""What a user can mend."""


class UserError(Exception):
    """The message is one sentence: what, where, what to do. A program prints it and exits with 1, without a traceback."""

    temporary = False
    """Whether the same call may go well a little later, as when a server does not answer."""
