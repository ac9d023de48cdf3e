"""The page as it is served: open to everybody, bound to its own origin, and asking for nothing that is not there."""

import re

import aiohttp
from yarl import URL

from gatehook.testing import serving

SETTINGS = """
[plugins.dashboard]
[plugins.auth_keys]
keys = ["a-key-0123456789abcdef"]
"""
PARTS = {
    "/dashboard": "text/html",
    "/dashboard/page.css": "text/css",
    "/dashboard/page.js": "text/javascript",
    "/dashboard/chart.js": "text/javascript",
}


async def test_the_page_and_its_parts_are_open_to_everybody_and_hold_to_their_own_origin() -> None:
    async with serving(SETTINGS) as served, aiohttp.ClientSession(served.url) as client:
        for path, kind in PARTS.items():
            async with client.get(path) as answer:
                text = await answer.text()
                assert (answer.status, answer.content_type, answer.charset) == (200, kind, "utf-8")
                directives = answer.headers["Content-Security-Policy"].split(";")
                policy = dict(one.strip().split(" ", 1) for one in directives)
                assert policy["default-src"] == "'none'"
                assert policy["script-src"] == policy["connect-src"] == "'self'"
                assert policy["frame-ancestors"] == "'none'"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), "nothing comes from elsewhere"
                assert "innerHTML" not in text


async def test_there_is_nothing_else_below_it() -> None:
    async with serving(SETTINGS) as served, aiohttp.ClientSession(served.url) as client:
        for path in ("/dashboard/__init__.py", "/dashboard/..%2Fpage.js", "/dashboard/"):
            async with client.get(URL(f"{served.url}{path}", encoded=True)) as answer:
                assert (answer.status, answer.content_type) == (404, "application/json")


async def test_each_part_that_the_page_names_is_served() -> None:
    async with serving(SETTINGS) as served, aiohttp.ClientSession(served.url) as client:
        async with client.get("/dashboard") as answer:
            named = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', await answer.text())
        assert {f"/{one}" for one in named} < set(PARTS)
        async with client.get("/dashboard/page.js") as answer:
            imported = re.findall(r'from "\./([^"]+)"', await answer.text())
        assert {f"/dashboard/{one}" for one in imported} == {"/dashboard/chart.js"}
