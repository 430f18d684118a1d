"""Logins at registries: where they are kept, and the X-Registry-Auth header made of one.

In the client's config.json: in the clear under `auths`, or with a program that keeps them: `credHelpers`
names one for a registry, `credsStore` one for all others.
"""

from cutaway.cli import config_file, credential_helper, jsontext
from cutaway.cli.config_file import ConfigFile

DOCKER_HUB = "https://index.docker.io/v1/"
NONE = "e30="  # base64 of {}


class Login:
    """Who one is at a registry: a name with a password, or an identity token in its place."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)

    def body(self, server: str) -> dict[str, str]:
        """As the Engine API takes it."""
        whole = {
            "username": self.username,
            "password": self.password,
            "serveraddress": server,
            "identitytoken": self.identity_token,
        }
        return {key: value for key, value in whole.items() if value}


def registry_header(domain: str) -> str:
    """The header's value; that of no login when there is none for this registry."""
    import base64

    server = DOCKER_HUB if domain == "docker.io" else domain
    login = find(config_file.load(), server)
    if not login:
        return NONE
    return base64.urlsafe_b64encode(jsontext.dumps(login.body(server)).encode()).decode()


def hostname(address: str) -> str:
    """A registry's address without scheme and path; docker's oldest files have them."""
    return address.removeprefix("http://").removeprefix("https://").partition("/")[0]


def find(config: ConfigFile, server: str) -> Login:
    """The login for a registry; an empty one if there is none. Raises what a helper complains of."""
    if helper := helper_for(config, server):
        found = credential_helper.get(helper, server)
        if found is None:
            return Login()
        user, secret = found
        if user == credential_helper.TOKEN:
            return Login(identity_token=secret)
        return Login(user, secret)
    auths = config.table("auths")
    entry = auths.get(server)
    if entry is None:
        entry = next((auths[key] for key in auths if hostname(key) == hostname(server)), None)
    return _decode(entry)


def keep(config: ConfigFile, server: str, login: Login) -> None:
    """Keep a login, by a helper or in the file. Raises `PermissionDenied` and what a helper complains of."""
    entry: dict[str, str] = {}
    if helper := helper_for(config, server):
        name = credential_helper.TOKEN if login.identity_token else login.username
        credential_helper.store(helper, server, name, login.identity_token or login.password)
    else:
        entry = _encode(login)
    # First, where docker writes it.
    config.settings = {"auths": {}} | config.settings | {"auths": {**config.table("auths"), server: entry}}
    config.save()


def forget(config: ConfigFile, server: str) -> None:
    """Forget a login, if there is one. Raises `PermissionDenied` and what a helper complains of."""
    if helper := helper_for(config, server):
        credential_helper.erase(helper, server)
    auths = config.table("auths")
    if server in auths:
        del auths[server]
        config.save()


def helper_for(config: ConfigFile, server: str) -> str:
    """The name of the program that keeps this registry's login, or "" for the file."""
    own = config.table("credHelpers").get(server)
    return own if isinstance(own, str) and own else config.text("credsStore")


def _decode(entry: object) -> Login:
    import base64

    if not isinstance(entry, dict):
        return Login()
    try:
        user, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return Login()
    return Login(
        user or str(entry.get("username") or ""),
        password.rstrip("\0") or str(entry.get("password") or ""),
        str(entry.get("identitytoken") or ""),
    )


def _encode(login: Login) -> dict[str, str]:
    import base64

    entry = {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
    if login.identity_token:
        entry["identitytoken"] = login.identity_token
    return entry
