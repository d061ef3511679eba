"""What is raised when a user's input cannot be used."""


class ConfigError(ValueError):
    """Bad input; the message names the key, the value and what is allowed."""
