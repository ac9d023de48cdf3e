"""What pytest learns of Gatehook: to run the suite of one vendor, and to report what a plugin can do.

Loaded by pytest wherever Gatehook is installed, so it imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["markdown", "results"]

_PROPERTY = "gatehook"
"""A test's property: kind of suite, plugin, capability. Properties reach the report also from other processes."""
_NOT_OFFERED = "not offered: "
_VENDORS = ("vendor", "image vendor")
"""Kinds of suites that a vendor is asked for by."""

Results = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By kind, then by capability, then by plugin: "yes", "not offered", "not tried" or "FAILED"."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("gatehook", "Gatehook's conformance suites")
    group.addoption("--gatehook-vendor", metavar="NAME", help="run the conformance checks of this vendor only")
    group.addoption("--gatehook-report", metavar="FILE", help="write what the conformance suites found, as Markdown")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note on each check what it checks, for the report, and deselect what was not asked for.

    Raises:
        UsageError: no suite is of the vendor that was asked for.
    """
    wanted = config.getoption("--gatehook-vendor")
    chosen: list[pytest.Item] = []
    titles: set[str] = set()
    for item in items:
        told = _told(item)
        if told is not None:
            item.user_properties.append((_PROPERTY, told))
            if told[0] in _VENDORS:
                titles |= {told[1], getattr(item.cls, "plugin", "")}  # type: ignore[attr-defined]
                if wanted in (told[1], item.cls.plugin):  # type: ignore[attr-defined]
                    chosen.append(item)
    if wanted and not chosen:
        known = ", ".join(sorted(titles - {""})) or "none"
        raise pytest.UsageError(
            f"--gatehook-vendor {wanted}: no VendorConformance or ImageVendorConformance with this plugin or label "
            f"among the tests; there are: {known}"
        )
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def _told(item: pytest.Item) -> tuple[str, str, str] | None:
    """A test's kind of suite, plugin and capability; None if it is not a check of a suite."""
    capability = getattr(getattr(item, "function", None), "capability", None)
    suite = getattr(item, "cls", None)
    return None if capability is None or suite is None else (suite.kind, suite.title(), capability)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the report if one was asked for, and write it."""
    file, wanted = config.getoption("--gatehook-report"), config.getoption("--gatehook-vendor")
    if not (file or wanted):
        return
    found = results(report for reports in terminalreporter.stats.values() for report in reports)
    for line in markdown(found):
        terminalreporter.write_line(line)
    if file:
        Path(file).write_text("\n".join(markdown(found)) + "\n", "utf-8")


def results(reports: Iterable[object]) -> Results:
    """What tests' reports say of each capability: the worst result, where several checks are of one."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for report in reports:
        if not isinstance(report, pytest.TestReport) or (report.passed and report.when != "call"):
            continue
        told: Any
        for name, told in report.user_properties:
            if name == _PROPERTY:
                kind, title, capability = told
                row = found.setdefault(kind, {}).setdefault(capability, {})
                row[title] = max(row.get(title, "not offered"), _result(report), key=_WORSE.index)
    return found


_WORSE = ("not offered", "yes", "not tried", "FAILED")


def _result(report: pytest.TestReport) -> str:
    if report.skipped:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
        return "not offered" if _NOT_OFFERED in reason else "not tried"
    return "FAILED" if report.failed else "yes"


def markdown(found: Results) -> Sequence[str]:
    """The report's lines: a table for each kind of plugin, a row for each capability."""
    lines: list[str] = []
    for kind, rows in found.items():
        titles = list(dict.fromkeys(title for row in rows.values() for title in row))
        lines += ["", f"| {kind} | {' | '.join(titles)} |", f"|---{'|---' * len(titles)}|"]
        for capability, row in rows.items():
            cells = [row.get(title, "not tried") for title in titles]
            lines.append(f"| {capability} | {' | '.join(cells)} |")
    return lines[1:]
