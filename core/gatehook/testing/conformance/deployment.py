"""What the suites for vendors share: one deployment of the vendor in question, and the settings that serve it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from gatehook.protocols import Vendor
from gatehook.testing import Served
from gatehook.testing.conformance.bench import MODEL
from gatehook.testing.conformance.suite import Suite, toml

__all__ = ["DeploymentSuite"]


class DeploymentSuite(Suite):
    """A suite with one deployment, under the name `MODEL`."""

    vendor_name: str = ""
    """The vendor's name in `[[models]]`, if the plugin has several vendors."""
    upstream_model: str = "upstream-model"
    """The `model` of the deployment."""
    options: Mapping[str, Any] = {}
    """The `options` of the deployment."""
    deployment: Mapping[str, Any] = {}
    """More of its `[[models]]` table."""
    key: str = "canary.6b1f0c9a7e3d"
    """The deployment's key. It has no known shape of a key, so it is hidden only where it is hidden as a secret."""

    def vendor(self, served: Served) -> Vendor:
        """The vendor in question."""
        return served.gateway.vendors[self.claimed.name]

    @functools.cached_property
    def claimed(self) -> Vendor:
        """The vendor as it is registered, to look at what it claims; it is not serving."""
        vendors = self.build().vendors
        return vendors[self.vendor_name] if self.vendor_name else self.own(list(vendors.values()), "vendor")

    def serving_one(
        self,
        url: str,
        options: Mapping[str, Any],
        deployment: Mapping[str, Any],
        *,
        failover: Mapping[str, Any] | None = None,
        plugins: Sequence[str] = (),
    ) -> str:
        """The settings of a gateway with one deployment.

        Args:
            url: the deployment's `base_url`.
            options: the deployment's `options`.
            deployment: more keys of its table.
            failover: keys of [failover]; without any, nothing is retried.
            plugins: the tables of other plugins that the gateway needs, each with its heading.
        """
        model = {
            "name": MODEL,
            "vendor": self.claimed.name,
            "model": self.upstream_model,
            "base_url": url,
            "api_key": self.key,
            "options": options,
            **self.deployment,
            **deployment,
        }
        tables = {"failover": {"retries": 0, **(failover or {})}, "[models]": model}
        written = [
            "\n".join([f"[{table}]", *(f"{key} = {toml(value)}" for key, value in values.items())])
            for table, values in tables.items()
        ]
        return self.written("\n".join([*plugins, *written]))
