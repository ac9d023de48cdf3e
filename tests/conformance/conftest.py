"""Runs checks of a suite as functions."""

from collections.abc import Awaitable, Callable, Collection

import pytest

from gatehook.testing.conformance.suite import NOT_OFFERED, Suite, capabilities, checks


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
