"""Who a job is run for: its caller, as the directory knows it by now."""

from gatehook import Directory, Key, PermissionDenied, Principal, common_models
from gatehook_plugins.jobs.stored import Caller

__all__ = ["Callers"]

_PAGE = 100


class Callers:
    """Makes principals again."""

    def __init__(self, directory: Directory | None) -> None:
        self._directory = directory

    async def principal(self, caller: Caller) -> Principal:
        """The caller, with no more rights than it had when it submitted the job, and no more than it has now.

        A key that has expired meanwhile is still good for it: it was when the job was submitted.

        Raises:
            PermissionDenied: the user or the key is disabled or deleted. Unavailable: the directory cannot be asked.
        """
        models = None if caller.models is None else frozenset(caller.models)
        admin, user, key = caller.admin, None, None
        if caller.has_user:
            user = None if self._directory is None else await self._directory.user(caller.id)
            if user is None:
                raise PermissionDenied("the user of this job no longer exists", code="user_deleted")
            if user.disabled:
                raise PermissionDenied("the user of this job is disabled", code="user_disabled")
            models = common_models(models, user.models)
        if caller.has_key:
            key = await self._key(caller)
            if key is None:
                raise PermissionDenied("the API key of this job is revoked", code="key_revoked")
            if key.disabled:
                raise PermissionDenied("the API key of this job is disabled", code="key_disabled")
            models = common_models(models, key.models)
            admin = admin and (key.admin or (user is not None and user.admin))
        return Principal(caller.id, caller.name, admin, models, caller.key_id, user, key)

    async def _key(self, caller: Caller) -> Key | None:
        directory, after = self._directory, ""
        while directory is not None:
            page = await directory.keys(caller.id, after=after, limit=_PAGE)
            for key in page:
                if key.id == caller.key_id:
                    return key
            if len(page) < _PAGE:
                break
            after = page[-1].id
        return None
