"""How everything here refuses: one line with what is wrong, both values and the cure."""


def require(condition: bool, message: str, *values: object, error: type[Exception] = ValueError) -> None:
    """Raise `error` with `message.format(*values)` unless `condition` holds. It names both values and the cure."""
    if not condition:
        raise error(message.format(*values))
