"""The error that every module may raise."""


class Failure(Exception):
    """The run cannot continue; the text is the reason."""
