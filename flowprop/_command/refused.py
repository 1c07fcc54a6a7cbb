"""The error of a command that cannot be carried out as it was given."""


class Refused(Exception):
    """What is wrong and what to do, in one line: the user reads it, and nothing has been written."""
