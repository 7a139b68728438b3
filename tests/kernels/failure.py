"""The one error of this tool."""


class BootError(Exception):
    """Nothing was run: the text says what failed, why, and what to do about it."""
