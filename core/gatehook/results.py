"""What plugins give while serving, where a wrong type would do harm: let somebody in, or hide whose fault it is."""

__all__ = ["WrongResultError"]


class WrongResultError(TypeError):
    """A plugin's method gave what its protocol does not know. The message names the class, and so the distribution."""

    def __init__(self, giver: object, method: str, given: object, wanted: str) -> None:
        """`giver` is the plugin's object, `wanted` says in words what the method should give."""
        cls = type(giver)
        super().__init__(f"{cls.__module__}.{cls.__qualname__}.{method} gave {type(given).__name__}, not {wanted}")
