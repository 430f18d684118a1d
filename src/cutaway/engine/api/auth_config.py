"""A registry login as clients of the Engine API send it."""

from cutaway.oci.document import Document
from cutaway.registry.client.settings import Credentials


class AuthConfig(Document):
    """In the header X-Registry-Auth, or as the body of POST /auth."""

    username: str | None = None
    password: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            username=self.username or "",
            password=self.password or "",
            identity_token=self.identitytoken or "",
            registry_token=self.registrytoken or "",
        )
