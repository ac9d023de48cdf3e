"""The observer keeps to everything that Gatehook's suite asks of one."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gatehook.testing.conformance import ObserverConformance
from gatehook_otel import OtelPlugin


class TestOTel(ObserverConformance):
    plugin = "otel"
    plugin_class = OtelPlugin

    @pytest.fixture(autouse=True)
    def _kept_in_memory(self, spans: Callable[[], Sequence[Any]]) -> None:
        """Nothing is sent."""
