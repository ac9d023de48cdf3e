"""The page in a real browser, at a real gateway with accounts."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.plugins.dashboard.browser import PROGRAM, Page, browsing

from gatehook.testing import Served, serving

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here; apt install chromium")

ADMIN = "admin-key-0123456789abcdef"
WILD = "org/<b>bold</b> & more"
SETTINGS = f"""
[plugins.auth_keys]
admin_keys = ["{ADMIN}"]
[plugins.dashboard]
[plugins.health]
[plugins.llm_api]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "cheap"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 0.001, output_per_1k_tokens = 0.001 }}
options = {{ text = "x", usage = {{ prompt_tokens = 500, completion_tokens = 500 }} }}
[[models]]
name = "dear"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1.0, output_per_1k_tokens = 1.0 }}
options = {{ text = "x", usage = {{ prompt_tokens = 500, completion_tokens = 750 }} }}
[[models]]
name = "{WILD}"
vendor = "mock"
"""
ROWS = "[...document.querySelectorAll('#models tr')].map(row => [...row.cells].map(cell => cell.innerText))"
HEIGHTS = "[...document.querySelectorAll('#chart rect')].map(bar => Number(bar.getAttribute('height')) > 0)"


@pytest.fixture
async def accounted(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway whose ledger has three requests."""
    kept = f'[database]\nurl = "sqlite:///{tmp_path}/g.db"\n[plugins.database]\n[plugins.ledger]\nflush_interval = 0\n'
    async with (
        serving(f'{kept}directory = "{tmp_path}/journal"\n{SETTINGS}') as served,
        aiohttp.ClientSession(served.url, headers={"X-API-Key": ADMIN}) as client,
    ):
        for model in ("dear", "cheap", "dear"):
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
            async with client.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 200
        yield served


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browsing() as page:
        yield page
        assert page.faults == []


async def show(page: Page, key: str) -> None:
    """Give the page a key, as a person would."""
    await page.until("!document.querySelector('#door').hidden")
    await page.value(f"document.querySelector('#key').value = {key!r}")
    await page.value("document.querySelector('#door button').click()")


async def tiles(page: Page) -> dict[str, str]:
    found: dict[str, str] = await page.value(
        "Object.fromEntries([...document.querySelectorAll('#tiles div')].map(tile => "
        "[tile.querySelector('dt').innerText, tile.querySelector('dd').innerText]))"
    )
    return found


async def test_who_shows_a_good_key_sees_what_was_used_and_how_the_models_do(page: Page, accounted: Served) -> None:
    await page.open(f"{accounted.url}/dashboard")
    await show(page, "wrong-key-0123456789abcdef")
    await page.until("document.querySelector('#trouble').innerText.includes('not valid')")
    assert await page.value("document.querySelector('#figures').hidden")

    await show(page, ADMIN)
    await page.until("document.querySelectorAll('#models tr').length === 3")
    told = await tiles(page)
    assert (told["Requests"], told["Tokens"], told["Cost"], told["Errors"]) == ("3", "3.5K", "$2.50", "0 %")
    assert await page.text("#health") == "healthy"
    rows: list[list[str]] = await page.value(ROWS)
    assert [(row[0], row[2], *row[5:]) for row in rows] == [
        ("dear", "healthy", "2", "2.5K", "$2.50"),
        ("cheap", "healthy", "1", "1K", "$0.0010"),
        (WILD, "healthy", "0", "0", "$0.00"),  # as text: no part of it is taken for HTML
    ]
    assert await page.value(HEIGHTS) == [False] * 13 + [True]
    label = "document.querySelector('#chart svg').getAttribute('aria-label')"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    assert (await page.value(label)).endswith(f"{today} 3")
    await page.value("document.querySelector('input[value=cost]').click()")
    assert (await page.value(label)).endswith(f"{today} $2.50")

    await page.value("document.querySelector('#forget').click()")
    await page.until("!document.querySelector('#door').hidden && document.querySelector('#figures').hidden")
    assert await page.value("sessionStorage.length") == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
async def test_nothing_sticks_out_of_a_narrow_window_or_cannot_be_read(
    page: Page, accounted: Served, width: int, scheme: str
) -> None:
    await page.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
    await page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.open(f"{accounted.url}/dashboard")
    await show(page, ADMIN)
    await page.until("document.querySelectorAll('#models tr').length === 3")
    assert await page.value("document.documentElement.scrollWidth <= window.innerWidth")
    colours: Any = await page.value("['backgroundColor', 'color'].map(which => getComputedStyle(document.body)[which])")
    light, dark = sorted(colours, key=lambda colour: -sum(map(int, colour[4:-1].split(","))))
    assert (light == colours[0]) == (scheme == "light"), dark


async def test_without_a_ledger_the_page_says_so_and_shows_the_rest(page: Page) -> None:
    async with serving(SETTINGS) as served:
        await page.open(f"{served.url}/dashboard")
        await show(page, ADMIN)
        await page.until("document.querySelectorAll('#models tr').length === 3")
        assert "enable [plugins.ledger]" in await page.text("#issues")
        assert (await tiles(page))["Cost"] == "\N{EN DASH}"


async def test_a_gateway_that_is_gone_is_told_and_what_was_shown_stays(page: Page, accounted: Served) -> None:
    async with serving(SETTINGS) as served:
        await page.open(f"{served.url}/dashboard")
        await show(page, ADMIN)
        await page.until("document.querySelectorAll('#models tr').length === 3")
    await page.value("document.dispatchEvent(new Event('visibilitychange'))")
    await page.until("document.querySelector('#trouble').innerText.includes('does not answer')")
    assert not await page.value("document.querySelector('#figures').hidden")
