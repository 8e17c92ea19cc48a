"""Numbers that the user passes: what must be whole is, before anything is made of it."""

from numbers import Integral


def require_integers(function: str, **values: object) -> None:
    """Refuse values, under the names of their parameters, that are no integers; None is left out.

    Truth values count nothing, whatever Python makes of them.

    Raises:
        TypeError: one of them is something else.

    >>> require_integers("probe", rank=4, limit=None)
    """
    for name, value in values.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not is_whole:
            raise TypeError(
                f"[{function}] {name} must be an integer, got {value!r}; pass a whole number."
            )
