"""What a user got wrong, told apart from what we got wrong."""


class UserError(ValueError):
    """A mistake in the input: one sentence with the value that was wrong and what to do about it.

    The command line prints the message alone and exits with code 2; a library caller sees an ordinary `ValueError`.
    """
