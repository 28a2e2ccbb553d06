"""What a user can mend."""


class UserError(Exception):
    """The message is one sentence: what, where, what to do. A program prints it and exits with 1, without a traceback."""
