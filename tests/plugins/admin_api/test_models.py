"""Models added, changed and deleted while the gateway serves, on both databases."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from gatehook.testing import serving

SENTINEL = "sk-sentinel-0123456789abcdef"


async def listed(admin: Any) -> list[str]:
    return [model["id"] for model in (await admin.done("GET", "/v1/models"))["data"]]


async def test_a_model_can_be_called_as_soon_as_it_is_added_and_not_after_its_end(admin: Any) -> None:
    status, made = await admin.call("POST", "/admin/models", {"model_id": "fast", "vendor_type": "Mock"})
    assert (status, made["model_id"], made["name"], made["vendor_type"]) == (201, "fast", "fast", "mock")
    assert (made["source"], made["has_api_key"]) == ("database", False)
    await admin.until(200, admin.key, "fast")
    assert await listed(admin) == ["mock", "fast"]
    assert await admin.done("GET", "/admin/models/fast") == made
    assert await admin.done("DELETE", "/admin/models/fast") == {"model_id": "fast", "deleted": True}
    await admin.until(404, admin.key, "fast")
    assert await listed(admin) == ["mock"]
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"weight": 2}), ("GET", None)):
        assert (await admin.refused(404, method, "/admin/models/fast", body))["code"] == "model_not_found"


VENDORS = ("OpenAI", "Anthropic", "Gemini", "GGUF", "ComfyUI", "Mock")


async def test_vendors_go_by_the_names_that_people_write(database_url: str) -> None:
    text = f'[database]\nurl = "{database_url}"\nsecret = "{"pepper" * 8}"\n[server]\nport = 0\n'
    text += (
        '[plugins.auth_keys]\nadmin_keys = ["admin-key-0123456789abcdef"]\n[plugins.database]\n[plugins.admin_api]\n'
    )
    text += "".join(f"[plugins.vendor_{vendor.lower()}]\n" for vendor in VENDORS)
    headers = {"Authorization": "Bearer admin-key-0123456789abcdef"}
    async with serving(text) as served, aiohttp.ClientSession(served.url, headers=headers) as http:
        for vendor in VENDORS:
            model = {
                "model_id": f"a {vendor}",
                "vendor_type": vendor,
                "base_url": "http://127.0.0.1:9/v1",
                "api_key": "k",
            }
            async with http.post("/admin/models", json=model) as answer:
                made = await answer.json()
            assert (answer.status, made["vendor_type"], made["has_api_key"]) == (201, vendor.lower(), True), made


async def test_every_key_of_a_model_is_kept(admin: Any) -> None:
    table: dict[str, Any] = {
        "name": "public",
        "model": "upstream-model",
        "base_url": "https://vendor.example/v1",
        "weight": 2.5,
        "priority": 3,
        "timeout": 30,
        "fallbacks": ["mock"],
        "rate_limit": {"requests_per_minute": 10, "tokens_per_minute": 1000, "concurrent_requests": 2},
        "pricing": {"input_per_1k_tokens": 0.0025, "output_per_1k_tokens": 0.01},
        "limits": {"max_tokens": 100, "context_window": 1000},
        "capabilities": ["vision"],
        "strict": True,
        "options": {"text": "s"},
        "enabled": False,
    }
    await admin.done("POST", "/admin/models", {"model_id": "a/b", "vendor_type": "mock", "api_key": SENTINEL, **table})
    kept = await admin.done("GET", "/admin/models/a/b")
    assert kept["has_api_key"] is True
    for field, value in table.items():
        if isinstance(value, dict):
            assert {name: kept[field][name] for name in value} == value
        else:
            assert kept[field] == value
    assert SENTINEL not in json.dumps(await admin.done("GET", "/admin/models"))
    changed = await admin.done("PATCH", "/admin/models/a%2Fb", {"weight": 1, "api_key": None})
    assert (changed["weight"], changed["priority"], changed["has_api_key"]) == (1, 3, False)


async def test_put_replaces_what_patch_would_have_kept(admin: Any) -> None:
    body = {"model_id": "m", "vendor_type": "mock", "weight": 2, "strict": True, "api_key": SENTINEL}
    made = await admin.done("POST", "/admin/models", body)
    assert (made["weight"], made["strict"], made["has_api_key"]) == (2, True, True)
    replaced = await admin.done("PUT", "/admin/models/m", {"vendor_type": "mock", "priority": 4})
    assert replaced == {**made, "revision": 2, "weight": 1, "priority": 4, "strict": False, "has_api_key": False}
    await admin.refused(404, "PUT", "/admin/models/other", {"vendor_type": "mock"})
    await admin.refused(400, "PUT", "/admin/models/m", {"weight": 2})


async def test_rows_may_share_a_public_name_and_names_with_the_settings(admin: Any) -> None:
    for model_id in ("one", "two"):
        await admin.done("POST", "/admin/models", {"model_id": model_id, "name": "shared", "vendor_type": "mock"})
    await admin.done("POST", "/admin/models", {"model_id": "three", "name": "mock", "vendor_type": "mock", "weight": 0})
    await admin.until(200, admin.key, "shared")
    assert await listed(admin) == ["mock", "shared"]
    models = (await admin.done("GET", "/admin/models"))["data"]
    assert [(model["model_id"], model["name"], model["source"]) for model in models] == [
        ("mock#1", "mock", "settings"),
        ("one", "shared", "database"),
        ("three", "mock", "database"),
        ("two", "shared", "database"),
    ]


async def test_models_of_the_settings_are_shown_and_cannot_be_changed(admin: Any) -> None:
    for model_id in ("mock", "mock%231"):
        shown = await admin.done("GET", f"/admin/models/{model_id}")
        assert (shown["model_id"], shown["source"], shown["vendor_type"]) == ("mock#1", "settings", "mock")
        assert "kept-option-secret" not in json.dumps(shown)
        assert (await admin.done("GET", f"/admin/models/{model_id}/fallbacks"))["fallbacks"] == []
        for method, path, body in (
            ("PATCH", "", {"weight": 2}), ("PUT", "", {"vendor_type": "mock"}), ("DELETE", "", None),
            ("PUT", "/fallbacks", {"fallbacks": []}),
        ):  # fmt: skip
            error = await admin.refused(409, method, f"/admin/models/{model_id}{path}", body)
            assert "settings" in error["message"]
    await admin.refused(409, "POST", "/admin/models", {"model_id": "mock#1", "vendor_type": "mock"})


async def test_a_model_twice_is_a_conflict(admin: Any) -> None:
    made = await admin.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
    await admin.refused(409, "POST", "/admin/models", {"model_id": "m", "vendor_type": "mock", "weight": 9})
    assert await admin.done("GET", "/admin/models/m") == made


async def test_fallbacks_are_set_and_read_and_really_followed(admin: Any) -> None:
    options = {"fault": {"kind": "status", "status": 401}}
    await admin.done("POST", "/admin/models", {"model_id": "broken", "vendor_type": "mock", "options": options})
    await admin.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
    await admin.until(502, admin.key, "broken")
    answer = await admin.done("PUT", "/admin/models/broken/fallbacks", {"fallbacks": ["m", "mock"]})
    assert answer == {"model_id": "broken", "fallbacks": ["m", "mock"]}
    assert await admin.done("GET", "/admin/models/broken/fallbacks") == answer
    await admin.until(200, admin.key, "broken")
    assert await admin.done("PUT", "/admin/models/m/fallbacks", {"fallbacks": []}) == {"model_id": "m", "fallbacks": []}
    for wrong in (["nobody"], ["broken"], ["m", "m"], "m", [1], None, [""]):
        await admin.refused(400, "PUT", "/admin/models/broken/fallbacks", {"fallbacks": wrong})
    await admin.refused(400, "PUT", "/admin/models/m/fallbacks", {"fallbacks": ["broken"]})
    await admin.refused(404, "PUT", "/admin/models/nobody/fallbacks", {"fallbacks": []})
    assert await admin.done("GET", "/admin/models/broken/fallbacks") == answer


async def test_of_two_editors_of_one_revision_the_second_is_refused(admin: Any) -> None:
    made = await admin.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
    _, headers, _ = await admin.raw("GET", "/admin/models/m")
    tag = headers["ETag"]
    assert tag == f'"{made["revision"]}"'
    changed = await admin.done("PATCH", "/admin/models/m", {"weight": 2}, headers={"If-Match": tag})
    assert changed["revision"] > made["revision"]
    whole = {"vendor_type": "mock", "weight": 3}
    for method, path, body in (
        ("PATCH", "", {"weight": 3}), ("PUT", "", whole), ("DELETE", "", None), ("PUT", "/fallbacks", {"fallbacks": []})
    ):  # fmt: skip
        stale: tuple[str, ...] = (tag, f"W/{tag}", "nonsense", '"x"')
        for one in stale:
            error = await admin.refused(412, method, f"/admin/models/m{path}", body, headers={"If-Match": one})
            assert error["code"] == "revision_conflict"
            assert f"revision {changed['revision']}" in error["message"]
        if body is not None:
            stated = {**body, "revision": made["revision"]}
            assert (await admin.refused(409, method, f"/admin/models/m{path}", stated))["code"] == "revision_conflict"
            for wrong in ("1", 1.5, True):
                await admin.refused(400, method, f"/admin/models/m{path}", {**body, "revision": wrong})
    assert await admin.done("GET", "/admin/models/m") == changed
    changed = await admin.done("PUT", "/admin/models/m", {**whole, "revision": changed["revision"]})
    fallbacks = {"fallbacks": ["mock"], "revision": changed["revision"]}
    _, headers, _ = await admin.raw("PUT", "/admin/models/m/fallbacks", fallbacks)
    assert (await admin.raw("GET", "/admin/models/m/fallbacks"))[1]["ETag"] == headers["ETag"]
    await admin.done("PATCH", "/admin/models/m", {"weight": 1}, headers={"If-Match": "*"})
    _, headers, _ = await admin.raw("GET", "/admin/models/m")
    await admin.done("DELETE", "/admin/models/m", headers={"If-Match": headers["ETag"]})
    again = await admin.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
    assert again["revision"] > changed["revision"], "a new model of an old name is another"


async def test_two_gateways_change_one_model_and_one_is_refused(open_admin: Any) -> None:
    async with open_admin() as here, open_admin() as there:
        made = await here.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
        bodies = [{"weight": n, "revision": made["revision"]} for n in (2, 3)]
        asked = zip((here, there), bodies, strict=True)
        done = await asyncio.gather(*(one.call("PATCH", "/admin/models/m", body) for one, body in asked))
        assert sorted(status for status, _ in done) == [200, 409]


async def test_what_cannot_be_a_model_is_refused_by_its_field(admin: Any) -> None:
    good: dict[str, Any] = {"model_id": "m", "vendor_type": "mock"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"vendor_type": "nobody"}, "vendor_type"),
        ({"vendor_type": 5}, "vendor_type"),
        ({"vendor_type": None}, "vendor_type"),
        ({"vendor": "mock"}, "vendor_type"),
        ({"model_id": None}, "model_id"),
        ({"model_id": ""}, "model_id"),
        ({"model_id": "x" * 5000}, "model_id"),
        ({"model_id": "a\x00b"}, "model_id"),
        ({"name": "a\x00b"}, "name"),
        ({"weight": -1}, "weight"),
        ({"weight": "much"}, "weight"),
        ({"timeout": 0}, "timeout"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"pricing": {"input_per_1k_tokens": -1, "output_per_1k_tokens": 1}}, "pricing.input_per_1k_tokens"),
        ({"rate_limit": {"requests_per_minute": 1.5}}, "rate_limit.requests_per_minute"),
        ({"limits": {"max_tokens": 0}}, "limits.max_tokens"),
        ({"fallbacks": ["nobody"]}, "fallbacks"),
        ({"wieght": 2}, "wieght"),
        ({"options": 5}, "options"),
        ({"options": json.loads("[" * 190 + "]" * 190)}, "options"),
        ({"api_key": 5}, "api_key"),
    ]
    for change, param in wrong:
        error = await admin.refused(400, "POST", "/admin/models", {**good, **change})
        assert (error["param"] or "").startswith(param), (change, error)
    assert "weight" in (await admin.refused(400, "POST", "/admin/models", {**good, "wieght": 2}))["message"]
    for method, path, body in (("POST", "", {"model_id": "m"}), ("PUT", "/m", {"weight": 2})):
        error = await admin.refused(400, method, f"/admin/models{path}", body)
        assert (error["param"], error["message"]) == ("vendor_type", "vendor_type: required, but missing")
    assert len((await admin.done("GET", "/admin/models"))["data"]) == 1
    await admin.refused(404, "GET", "/v1/models/m")


async def test_what_keeps_a_model_from_working_is_told(admin: Any) -> None:
    wrong = {"model_id": "m", "vendor_type": "mock", "options": {"txt": "s"}}
    made = await admin.done("POST", "/admin/models", wrong)
    assert made["faults"] == ["options.txt: unknown key; did you mean 'text'?"]
    assert (await admin.done("GET", "/admin/models/m"))["faults"] == made["faults"]
    assert (await admin.done("PATCH", "/admin/models/m", {"options": {"text": "s"}}))["faults"] == []
    assert [model["faults"] for model in (await admin.done("GET", "/admin/models"))["data"]] == [[], []]


async def test_references_to_the_gateways_own_secrets_are_refused_unless_allowed(
    open_admin: Any, tmp_path: Path
) -> None:
    (tmp_path / "vendor.key").write_text(SENTINEL)
    model = {"model_id": "m", "vendor_type": "mock"}
    referring: list[dict[str, Any]] = [
        {"api_key": "env:VENDOR_KEY"}, {"api_key": "file:/etc/passwd"}, {"options": {"a": [{"b": "env:VENDOR_KEY"}]}},
    ]  # fmt: skip
    async with open_admin() as admin:
        await admin.done("POST", "/admin/models", {**model, "model_id": "there"})
        for more in referring:
            for method, path, body in (
                ("POST", "/admin/models", {**model, **more}),
                ("PATCH", "/admin/models/there", more),
                ("PUT", "/admin/models/there", {"vendor": "mock", **more}),
            ):
                error = await admin.refused(400, method, path, body)
                assert (error["code"], error["param"]) == ("reference_not_allowed", next(iter(more)))
    async with open_admin(allow_references=True) as admin:
        made = await admin.done("POST", "/admin/models", {**model, "api_key": f"file:{tmp_path / 'vendor.key'}"})
        assert made["has_api_key"] is True
        await admin.until(200, admin.key, "m")


async def test_a_change_in_one_gateway_reaches_another(open_admin: Any) -> None:
    async with open_admin() as here, open_admin() as there:
        await here.done("POST", "/admin/models", {"model_id": "fast", "vendor_type": "mock"})
        await there.until(200, there.key, "fast")
        await here.done("DELETE", "/admin/models/fast")
        await there.until(404, there.key, "fast")
