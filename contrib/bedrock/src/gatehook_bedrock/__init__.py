"""Amazon Bedrock behind Gatehook: the vendor `bedrock`."""

from collections.abc import Iterable

from pydantic import Field

from gatehook import Gateway, Section, Vendor, hookimpl
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock

__all__ = ["BedrockPlugin"]


class BedrockPlugin:
    """The vendor `bedrock`: Converse, ConverseStream, and InvokeModel for embeddings."""

    class Settings(Section):
        """[plugins.bedrock]."""

        region: str = Field(
            default="",
            description='AWS region for models that name none, such as "eu-central-1"; "": as AWS\'s own chain says',
        )
        profile: str = Field(default="", description="profile of ~/.aws/config for models that name none")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """One vendor."""
        return [Bedrock(gateway.egress, Signer(), self._settings.region, self._settings.profile)]
