"""/admin/models: the deployments kept in the database, which can be changed, and those of the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gatehook import (
    CATALOG,
    DIRECTORY,
    PRINCIPAL,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    ModelSettings,
    NotFound,
    Target,
    asked_revision,
    changed_meanwhile,
)
from gatehook_plugins.admin_api.reading import body, path_id, table
from gatehook_plugins.admin_api.requests import Fallbacks
from gatehook_plugins.admin_api.routing import MODEL_ID, Handled
from gatehook_plugins.admin_api.shapes import answer, settings_model, stored_model

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ModelRoutes"]


class ModelRoutes:
    """Models and their fallbacks. A row has an id, which is its public name too unless it says another.

    Changes may name the revision that they were made of, by `If-Match` or `revision`: of two editors one is refused.
    """

    def __init__(self, gateway: Gateway, *, allow_references: bool) -> None:
        self._directory = gateway.services[DIRECTORY]
        self._catalog = gateway.services[CATALOG]
        self._gateway = gateway
        self._allow_references = allow_references

    def routes(self) -> Iterable[Handled]:
        """Method, path, handler. As ids may hold slashes, the longer path comes first."""
        yield "GET", "/admin/models", self.list
        yield "POST", "/admin/models", self.create
        yield "GET", f"/admin/models/{MODEL_ID}/fallbacks", self.fallbacks
        yield "PUT", f"/admin/models/{MODEL_ID}/fallbacks", self.set_fallbacks
        yield "GET", f"/admin/models/{MODEL_ID}", self.one
        yield "PATCH", f"/admin/models/{MODEL_ID}", self.change
        yield "PUT", f"/admin/models/{MODEL_ID}", self.replace
        yield "DELETE", f"/admin/models/{MODEL_ID}", self.delete

    async def list(self, request: web.Request) -> web.Response:
        """All of them: those of the settings, then those of the database."""
        models = [self._of_settings(target) for target in self._gateway.settings.targets]
        models += [self._stored(row) for row in await self._directory.models()]
        return answer({"object": "list", "data": models, "has_more": False})

    async def create(self, request: web.Request) -> web.Response:
        """A new model, callable at once, in other processes within a second: 201."""
        given = await self._table(request)
        model_id = given.pop("model_id", None)
        if not isinstance(model_id, str):
            raise InvalidRequest("model_id: expected a text: the model's id and, without `name`, its public name",
                                 param="model_id")  # fmt: skip
        if any(target.key == model_id for target in self._gateway.settings.targets):
            raise _in_file(model_id)
        _require_vendor(given)
        row = await self._directory.put_model(
            request[PRINCIPAL].actor, model_id, {"name": model_id, **given}, create=True
        )
        return self._answer(row, 201)

    async def one(self, request: web.Request) -> web.Response:
        """One model."""
        model = await self._model(path_id(request, "model_id"))
        return _tagged(answer(model), model)

    async def change(self, request: web.Request) -> web.Response:
        """Some of a model's fields."""
        return self._answer(await self._put(request, path_id(request, "model_id"), await self._table(request)))

    async def replace(self, request: web.Request) -> web.Response:
        """All of a model's fields: what is not named has its default again."""
        model_id, given = path_id(request, "model_id"), await self._table(request)
        _require_vendor(given)
        whole = {**dict.fromkeys(ModelSettings.model_fields), "name": model_id, **given}
        return self._answer(await self._put(request, model_id, whole))

    async def fallbacks(self, request: web.Request) -> web.Response:
        """The models that follow when this one fails, in order."""
        model_id = path_id(request, "model_id")
        model = await self._model(model_id)
        return _tagged(answer({"model_id": model_id, "fallbacks": model["fallbacks"]}), model)

    async def set_fallbacks(self, request: web.Request) -> web.Response:
        """Other fallbacks, instead of those it had."""
        model_id, asked = path_id(request, "model_id"), await body(request, Fallbacks)
        row = await self._put(request, model_id, {"fallbacks": asked.fallbacks, "revision": asked.revision})
        return _tagged(answer({"model_id": model_id, "fallbacks": asked.fallbacks}), row)

    async def delete(self, request: web.Request) -> web.Response:
        """A model's end."""
        model_id = path_id(request, "model_id")
        try:
            await self._directory.delete_model(request[PRINCIPAL].actor, model_id, revision=asked_revision(request))
        except NotFound:
            raise self._missing(model_id) from None
        except Conflict as error:
            raise changed_meanwhile(request, error) from None
        return answer({"model_id": model_id, "deleted": True})

    async def _put(self, request: web.Request, model_id: str, fields: dict[str, Any]) -> Mapping[str, Any]:
        revision = asked_revision(request, fields.pop("revision", None))
        try:
            return await self._directory.put_model(
                request[PRINCIPAL].actor, model_id, fields, create=False, revision=revision
            )
        except NotFound:
            raise self._missing(model_id) from None
        except Conflict as error:
            raise changed_meanwhile(request, error) from None

    def _answer(self, row: Mapping[str, Any], status: int = 200) -> web.Response:
        return _tagged(answer(self._stored(row), status), row)

    async def _table(self, request: web.Request) -> dict[str, Any]:
        """The body as a [[models]] table, `vendor_type` being the vendor; the directory checks all else.

        Raises:
            InvalidRequest: no enabled plugin provides the vendor, or something refers to the gateway's own secrets.
        """
        given = await table(request)
        if "vendor_type" in given:
            if "vendor" in given:
                raise InvalidRequest("vendor_type: give this or vendor, not both", param="vendor_type")
            given["vendor"] = given.pop("vendor_type")
            if not isinstance(given["vendor"], str):
                raise InvalidRequest("vendor_type: expected the name of a vendor", param="vendor_type")
        if isinstance(vendor := given.get("vendor"), str):
            given["vendor"] = self._known_vendor(vendor)
        for field in ("api_key", "options"):
            if not self._allow_references and _refers(given.get(field)):
                raise InvalidRequest(
                    f"{field}: env: and file: would read the gateway's own secrets; give the value itself, or set "
                    "[plugins.admin_api] allow_references = true",
                    param=field,
                    code="reference_not_allowed",
                )
        return given

    def _known_vendor(self, vendor: str) -> str:
        known = self._gateway.vendors
        if vendor.lower() not in known:
            raise InvalidRequest(
                f"vendor_type: no enabled plugin provides {vendor[:64]!r}, only: {', '.join(sorted(known)) or 'none'}",
                param="vendor_type",
                code="unknown_vendor",
            )
        return vendor.lower()

    async def _model(self, model_id: str) -> dict[str, Any]:
        for row in await self._directory.models():
            if row["id"] == model_id:
                return self._stored(row)
        if (target := self._in_settings(model_id)) is not None:
            return self._of_settings(target)
        raise self._missing(model_id)

    def _stored(self, row: Mapping[str, Any]) -> dict[str, Any]:
        model = stored_model(row)
        target = self._served(model["name"], f"{model['name']}#db-{row['id']}")
        left_out = ["not in use yet; if that lasts, the gateway's log tells why"] if model["enabled"] else []
        return {**model, "faults": left_out if target is None else self._faults(target)}

    def _of_settings(self, target: Target) -> dict[str, Any]:
        return {**settings_model(target), "faults": self._faults(self._served(target.name, target.key) or target)}

    def _served(self, name: str, key: str) -> Target | None:
        """A deployment as calls find it, with what an administrator has set of it."""
        return next((one for one in self._catalog.groups().get(name, ()) if one.key == key), None)

    def _faults(self, target: Target) -> Sequence[str]:
        """Why a deployment cannot be called, [] if it can."""
        vendor = self._gateway.vendors.get(target.vendor)
        if vendor is None:
            return [f"no enabled plugin provides vendor {target.vendor!r}"]
        check = getattr(vendor, "check", None)
        found = [] if check is None else list(check(target))
        return [target.unavailable, *found] if target.unavailable else found

    def _in_settings(self, model_id: str) -> Target | None:
        """The deployment of the settings with this id, or the first with this public name."""
        targets = self._gateway.settings.targets
        return next((target for target in targets if model_id in (target.key, target.name)), None)

    def _missing(self, model_id: str) -> Conflict | ModelNotFound:
        """The error for an id that no model in the database has."""
        if self._in_settings(model_id) is not None:
            return _in_file(model_id)
        return ModelNotFound(
            f"there is no model {model_id!r}; GET /admin/models lists those there are", param="model_id"
        )


def _tagged(response: web.Response, model: Mapping[str, Any]) -> web.Response:
    """With the revision as `ETag`; a model of the settings has none."""
    if "revision" in model:
        response.headers["ETag"] = f'"{model["revision"]}"'
    return response


def _require_vendor(given: Mapping[str, Any]) -> None:
    if given.get("vendor") is None:
        raise InvalidRequest("vendor_type: required, but missing", param="vendor_type")


def _in_file(model_id: str) -> Conflict:
    return Conflict(
        f"{model_id!r} stands in the settings file; change it there, or add a row of another id", param="model_id"
    )


def _refers(value: Any) -> bool:
    """Whether there is an `env:NAME` or `file:PATH` in it, at any depth."""
    if isinstance(value, dict):
        return any(map(_refers, value.values()))
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and value.startswith(("env:", "file:"))
