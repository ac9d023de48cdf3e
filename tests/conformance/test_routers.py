"""The router that is shipped keeps to everything the suite asks of a router, with each strategy."""

from gatehook.testing.conformance import RouterConformance


class TestRouteModels(RouterConformance):
    plugin = "route_models"


class TestRoundRobin(RouterConformance):
    plugin = "route_models"
    label = "route_models: round robin"
    settings = '[plugins.route_models]\nstrategy = "round_robin"\n'


class TestAffinity(RouterConformance):
    plugin = "route_models"
    label = "route_models: affinity"
    settings = '[plugins.route_models]\naffinity = "header:X-Session"\n'
