"""pytest's options for the suites, and the report in PLUGINS.md."""

from typing import Any

import pytest

from gatehook.loader.loading import installed
from gatehook.testing.conformance import ImageVendorConformance, VendorConformance

pytest_plugins = ("pytester",)

SUITES = """
from gatehook import Section, hookimpl
from gatehook.testing.conformance import AuthenticatorConformance, VendorConformance
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered


class One(Suite):
    kind = "vendor"
    plugin = "plugin_of_one"
    label = "one"

    @check("walking")
    async def test_walks(self): ...

    @check("flying")
    async def test_flies(self):
        not_offered("it has no wings")


class TestOne(One): ...


class TestTwo(One):
    label = "two"

    @check("flying")
    async def test_flies(self):
        expect(False, "it fell")


class TestDoor(One):
    kind = "authenticator"
    label = "door"


def test_of_something_else(): ...
"""


@pytest.fixture
def ran(pytester: pytest.Pytester) -> Any:
    """Runs pytest on these suites."""
    pytester.makepyfile(SUITES)
    plugin = "gatehook.pytest_plugin"
    options = ("-p", plugin, "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    return lambda *more: pytester.runpytest_inprocess(*options, *more)


def test_the_suite_of_one_vendor_runs_alone_and_prints_its_report(ran: Any) -> None:
    result = ran("--gatehook-vendor", "one")
    result.assert_outcomes(passed=1, skipped=1, deselected=5)
    result.stdout.fnmatch_lines(["| vendor | one |", "|---|---|", "| walking | yes |", "| flying | not offered |"])
    ran("--gatehook-vendor", "plugin_of_one").assert_outcomes(passed=2, skipped=1, failed=1, deselected=3)


def test_a_vendor_that_no_suite_is_of_is_told_with_those_there_are(ran: Any) -> None:
    result = ran("--gatehook-vendor", "three")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gatehook-vendor three: no VendorConformance*there are: one, plugin_of_one, two"])


def test_the_report_is_a_table_for_each_kind(ran: Any, pytester: pytest.Pytester) -> None:
    result = ran("--gatehook-report", "report.md")
    result.assert_outcomes(passed=4, skipped=2, failed=1)
    assert (pytester.path / "report.md").read_text("utf-8") == (
        "| vendor | one | two |\n|---|---|---|\n| walking | yes | yes |\n| flying | not offered | FAILED |\n"
        "\n| authenticator | door |\n|---|---|\n| walking | yes |\n| flying | not offered |\n"
    )


def test_without_the_options_nothing_is_said(ran: Any) -> None:
    result = ran()
    result.assert_outcomes(passed=4, skipped=2, failed=1)
    result.stdout.no_fnmatch_line("| vendor*")


@pytest.mark.parametrize(
    ("suite", "vendors"),
    [
        (VendorConformance, ["openai", "anthropic", "gemini", "mock", "gguf"]),
        (ImageVendorConformance, ["openai", "mock", "comfyui"]),
    ],
)
def test_the_book_reports_of_every_vendor_and_every_check(
    claims: Any, capabilities: Any, suite: type[VendorConformance | ImageVendorConformance], vendors: list[str]
) -> None:
    told = claims(suite.kind)
    assert list(told) == [(row, vendor) for row in capabilities(suite) for vendor in vendors]
    assert set(told.values()) <= {"yes", "not offered", "not tried"}


def test_every_vendor_that_is_shipped_has_a_report(claims: Any) -> None:
    told = {vendor for kind in ("vendor", "image vendor") for _, vendor in claims(kind)}
    plugins = {name.removeprefix("vendor_") for name in installed() if name.startswith("vendor_")}
    assert told == plugins
