"""On whose behalf a call is made later: a job's, or that of a conversation that goes on after somebody has decided."""

from typing import Final

from msgspec import Struct

from gatehook.accounts import Key, common_models
from gatehook.errors import PermissionDenied
from gatehook.model import Principal
from gatehook.services import Directory

__all__ = ["Caller"]

_PAGE: Final = 100


class Caller(Struct, frozen=True):
    """A principal in a form that can be stored; what the directory knows of it is read anew when the call is made."""

    id: str
    name: str
    admin: bool
    models: list[str] | None
    key_id: str
    has_user: bool
    """Whether the directory knew the user; it must still do so when the call is made."""
    has_key: bool

    @classmethod
    def of(cls, principal: Principal) -> "Caller":
        """What is kept of a principal."""
        models = None if principal.models is None else sorted(principal.models)
        has_user, has_key = principal.user is not None, principal.key is not None
        return cls(principal.id, principal.name, principal.admin, models, principal.key_id, has_user, has_key)

    async def principal(self, directory: Directory | None) -> Principal:
        """The principal again, with no more rights than it had then, and no more than it has now.

        A key that has expired meanwhile still counts: it was valid when its caller asked.

        Raises:
            PermissionDenied: the user or the key is disabled or deleted. Unavailable: the directory cannot be asked.
        """
        models = None if self.models is None else frozenset(self.models)
        admin, user, key = self.admin, None, None
        if self.has_user:
            user = None if directory is None else await directory.user(self.id)
            if user is None:
                raise PermissionDenied(f"the user {self.id!r}, who asked, no longer exists", code="user_deleted")
            if user.disabled:
                raise PermissionDenied(f"the user {self.id!r}, who asked, is disabled", code="user_disabled")
            models = common_models(models, user.models)
        if self.has_key:
            key = await self._key(directory)
            if key is None:
                raise PermissionDenied("the API key by which this was asked is revoked", code="key_revoked")
            if key.disabled:
                raise PermissionDenied("the API key by which this was asked is disabled", code="key_disabled")
            models = common_models(models, key.models)
            admin = admin and (key.admin or (user is not None and user.admin))
        return Principal(self.id, self.name, admin, models, self.key_id, user, key)

    async def _key(self, directory: Directory | None) -> Key | None:
        after = ""
        while directory is not None:
            page = await directory.keys(self.id, after=after, limit=_PAGE)
            for key in page:
                if key.id == self.key_id:
                    return key
            if len(page) < _PAGE:
                break
            after = page[-1].id
        return None
