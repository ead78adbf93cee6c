"""Errors whose text is written for the user: one sentence that says what is wrong and what to do."""


class ConfigError(Exception):
    """The arguments do not fit each other, the model or the machine. Only the user can mend it."""


class ModelError(ConfigError):
    """The model's files are missing, corrupt, of a kind we do not run, or do not fit the arguments."""
