"""The transform keeps to everything that Gatehook's suite asks of one."""

from gatehook.testing.conformance import TransformConformance
from gatehook_guard import GuardPlugin


class TestGuard(TransformConformance):
    plugin = "guard"
    plugin_class = GuardPlugin
    request = "I am ann@example.org, my card is 4111 1111 1111 1111."
    hidden = ("ann@example.org", "4111")
    answer = "Write to bob@example.net or 192.168.7.77!"
    masked = ("bob@example.net", "192.168.7.77")


class TestGuardThatRestoresNothing(TransformConformance):
    plugin = "guard"
    plugin_class = GuardPlugin
    settings = "[plugins.guard]\nrestore = false\n"
    answer = "Your address is ann@example.org, as you said."
    masked = ("ann@example.org",)
