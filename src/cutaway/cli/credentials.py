"""Registry logins that `docker login` has kept: the X-Registry-Auth header for one registry.

Read from $DOCKER_CONFIG/config.json or ~/.docker/config.json, `auths` only; a credential helper named
there is a program of the user's that is not run.
"""

import os

NONE = "e30="  # base64 of {}


def registry_header(domain: str) -> str:
    """The header's value; that of no login when there is none for this registry."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        with open(f"{folder}/config.json", "rb") as file:
            text = file.read()
    except OSError:
        return NONE
    return _header(text, domain)


def _header(text: bytes, domain: str) -> str:
    import base64

    from cutaway.cli import jsontext

    settings = jsontext.loads(text, "the client's config.json")
    auths = settings.get("auths") if isinstance(settings, dict) else None
    key = "https://index.docker.io/v1/" if domain == "docker.io" else domain
    entry = auths.get(key) if isinstance(auths, dict) else None
    if not isinstance(entry, dict):
        return NONE
    try:
        user, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return NONE
    login = {"username": user, "password": password, "serveraddress": key}
    if entry.get("identitytoken"):
        login["identitytoken"] = str(entry["identitytoken"])
    return base64.urlsafe_b64encode(jsontext.dumps(login).encode()).decode()
