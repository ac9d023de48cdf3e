"""A plugin whose import, __init__ or hook takes long, and may never end, is named while it does."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gatehook.app import Gateway
from gatehook.config.settings import load

WAIT = """
import pathlib, time
def patiently():
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.01)
"""
SLOW = """
from gatehook import Section, hookimpl
from specimen_wait import patiently
class Slow:
    class Settings(Section): ...
    def __init__(self, settings):
        {init}
    @hookimpl
    def register_observers(self):
        {hook}
        return []
{top}
"""


@pytest.mark.parametrize(
    ("place", "told"),
    [("top", "be imported"), ("init", "be built"), ("hook", "return from register_observers")],
)
def test_whoever_waits_is_told_for_whom_and_where_it_is(
    tmp_path: Path,
    distribution: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    told: str,
) -> None:
    go = tmp_path / "go"
    source = SLOW.format(**{"top": "", "init": "pass", "hook": "pass", place: "patiently()"})
    entry = {"slow": "specimen_slow:Slow"}
    distribution("gatehook-slow", entry, specimen_slow=source, specimen_wait=WAIT.format(go=str(go)))
    monkeypatch.setattr("gatehook.loader.patience._PATIENCE", 0.05)

    where = {"top": "<module>", "init": "Slow.__init__", "hook": "Slow.register_observers"}[place]
    expected = re.compile(
        rf"plugin 'slow' \(gatehook-slow 7\.1\) takes more than [\d.]+ s to {told}; the gateway waits for it: "
        rf"it is at .*specimen_slow\.py:\d+, in {re.escape(where)}"
    )

    def heard(record: logging.LogRecord) -> bool:
        if expected.fullmatch(record.getMessage()):  # on a busy machine what comes before it may take long as well
            go.touch()
        return True

    monkeypatch.setattr(caplog.handler, "filters", [heard])  # the handler is that of all tests
    file = tmp_path / "settings.toml"
    file.write_text("[plugins.slow]\n")
    assert Gateway(load(file, environ={})).plugins.names == ("slow",)
    assert any(expected.fullmatch(record.getMessage()) for record in caplog.records)
