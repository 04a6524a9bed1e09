"""What every part may raise."""


class Failure(Exception):
    """A run that cannot go on, with its cause in words for people."""
