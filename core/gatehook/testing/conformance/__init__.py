"""Conformance suites: classes to subclass, one for each protocol. They need pytest, pytest-asyncio and hypothesis.

No network: upstreams are servers on this machine that play what the author's script says. Each check belongs to a
capability, a row of the report; what a plugin does not claim is reported as not offered, and is no failure.
"""

from gatehook.testing.conformance.authenticator import AuthenticatorConformance
from gatehook.testing.conformance.cache import CacheConformance
from gatehook.testing.conformance.image_answers import ImageAnswers
from gatehook.testing.conformance.image_failures import ImageFailures
from gatehook.testing.conformance.image_lines import ImageLines
from gatehook.testing.conformance.image_requests import ImageRequests
from gatehook.testing.conformance.images import Fate, ImageServer, Job, Plan, PostedImages, half, painted
from gatehook.testing.conformance.limiter import LimiterConformance
from gatehook.testing.conformance.observer import ObserverConformance
from gatehook.testing.conformance.router import RouterConformance
from gatehook.testing.conformance.script import Act, Failure, Said, Script
from gatehook.testing.conformance.suite import not_offered
from gatehook.testing.conformance.surface import SurfaceConformance
from gatehook.testing.conformance.tool import ToolConformance
from gatehook.testing.conformance.tool_policy import ToolPolicyConformance
from gatehook.testing.conformance.transform import TransformConformance
from gatehook.testing.conformance.vendor_answers import VendorAnswers
from gatehook.testing.conformance.vendor_failures import VendorFailures
from gatehook.testing.conformance.vendor_lines import VendorLines
from gatehook.testing.conformance.vendor_requests import VendorRequests

__all__ = [
    "Act",
    "AuthenticatorConformance",
    "CacheConformance",
    "Failure",
    "Fate",
    "ImageServer",
    "ImageVendorConformance",
    "Job",
    "LimiterConformance",
    "ObserverConformance",
    "Plan",
    "PostedImages",
    "RouterConformance",
    "Said",
    "Script",
    "SurfaceConformance",
    "ToolConformance",
    "ToolPolicyConformance",
    "TransformConformance",
    "VendorAnswers",
    "VendorConformance",
    "half",
    "not_offered",
    "painted",
]


class VendorConformance(VendorRequests, VendorLines, VendorFailures, VendorAnswers):
    """The suite for vendors: subclass it, name the `plugin`, give a `script` of its upstream's dialect."""


class ImageVendorConformance(ImageRequests, ImageLines, ImageFailures, ImageAnswers):
    """The suite for vendors that make pictures: name the `plugin`, give a `server` that stands in for its own."""
