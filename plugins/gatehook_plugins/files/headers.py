"""What a browser is told about a file, so that nothing in it is ever run."""

from gatehook_plugins.files.names import extension

__all__ = ["disposition"]

_SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
"""What a browser may show; anything else (SVG and HTML hold programs) is downloaded."""


def disposition(name: str, media_type: str) -> str:
    """The value of `Content-Disposition`."""
    kind = "inline" if media_type in _SHOWN else "attachment"
    return f'{kind}; filename="{name}{extension(media_type)}"'
