"""Runs checks of a suite as functions, and holds the reports in PLUGINS.md against what the checks find."""

import re
from collections.abc import Awaitable, Callable, Collection, Generator
from pathlib import Path

import pytest

from gatehook.testing.conformance.suite import NOT_OFFERED, Suite, capabilities, checks

BOOK = Path(__file__).parents[2] / "PLUGINS.md"


async def failing_checks(suite: Suite, *, without: Collection[str] = ()) -> dict[str, str]:
    """The capabilities whose checks fail, and what they say."""
    found: dict[str, str] = {}
    for method, capability in checks(type(suite)).items():
        if capability in without:
            continue
        try:
            await getattr(suite, method)()
        except pytest.skip.Exception as skipped:
            if not str(skipped.msg).startswith(NOT_OFFERED):
                raise
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # whatever a faulty plugin does
            found[capability] = str(error)
    return found


@pytest.fixture(name="failing")
def failing_fixture() -> Callable[..., Awaitable[dict[str, str]]]:
    """Runs all checks of a suite: what fails."""
    return failing_checks


@pytest.fixture(name="capabilities")
def capabilities_fixture() -> Callable[[type[Suite]], list[str]]:
    """All that a suite checks."""
    return capabilities


def claims() -> dict[tuple[str, str], str]:
    """What PLUGINS.md says of the vendors: the cell of each capability and vendor."""
    table = re.search(r"^\| vendor \|(.*)\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", BOOK.read_text("utf-8"), re.MULTILINE)
    if table is None:
        return {}
    vendors = [cell.strip() for cell in table[1].split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2].splitlines()]
    return {(row[0], vendor): cell for row in rows for vendor, cell in zip(vendors, row[1:], strict=True)}


@pytest.fixture(name="claims")
def claims_fixture() -> Callable[[], dict[tuple[str, str], str]]:
    """Reads the table."""
    return claims


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A check that finds something else than PLUGINS.md says is a failure."""
    report = yield
    suite, capability = item.cls, getattr(item.function, "capability", "")
    is_written_anew = item.config.getoption("--gatehook-report", None)
    if call.when == "call" and capability and suite.kind == "vendor" and not is_written_anew:
        said = claims().get((capability, suite.title()), "nothing")
        found = _found(report)
        if found and said != found and not report.failed:
            report.outcome = "failed"
            report.longrepr = f"PLUGINS.md says {said!r} of {capability} at {suite.title()}, the check finds {found!r}"
    return report


def _found(report: pytest.TestReport) -> str:
    if not report.skipped:
        return "yes"
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
    return "not offered" if NOT_OFFERED in reason else ""
