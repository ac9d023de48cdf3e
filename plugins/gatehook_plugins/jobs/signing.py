"""Signs webhooks, in the form of Standard Webhooks (standardwebhooks.com), for which every language has a library.

`webhook-id` is the job's id, the same with every try; `webhook-timestamp` the epoch second of the try;
`webhook-signature` is "v1," and the base64 of HMAC-SHA256(key, "ID.TIMESTAMP.BODY"). Of a secret that begins with
"whsec_" the key is what follows, decoded from base64; any other is the key itself, as UTF-8.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

__all__ = ["key_of", "signed"]

_PREFIX: Final = "whsec_"


def key_of(secret: str) -> bytes:
    """The key that signs.

    Raises:
        ValueError: what follows "whsec_" is not base64.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("after 'whsec_', expected base64") from None


def signed(key: bytes, message_id: str, at: int, body: bytes) -> Mapping[str, str]:
    """The headers of a delivery; `at` is in epoch seconds."""
    digest = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), at, body), hashlib.sha256)
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
