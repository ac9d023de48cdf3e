"""Where a chat's answer says that it has its words from, with the fields that this API has for it."""

from typing import Any

import msgspec

__all__ = ["read_citations"]


class _Page(msgspec.Struct):
    url: str
    title: str = ""
    start_index: int = 0
    end_index: int = 0


class _Annotation(msgspec.Struct):
    url_citation: _Page


def read_citations(given: Any) -> list[dict[str, Any]]:
    """The pages among `annotations`, of a message or a delta; what is no page, or has a wrong form, is left out.

    Args:
        given: as chats have them (`openai.types.chat.chat_completion_message.Annotation`).
    """
    pages: list[dict[str, Any]] = []
    for one in given if isinstance(given, list) else ():
        try:
            page = msgspec.convert(one, _Annotation).url_citation
        except msgspec.ValidationError:
            continue
        pages.append({"type": "url_citation", **msgspec.structs.asdict(page)})
    return pages
