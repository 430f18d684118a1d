"""`login` and `logout`: registries' passwords, tried with the daemon's help and kept by the client."""

import sys

from cutaway.cli import config_file, credential_helper, credentials
from cutaway.cli.command import Command, Invocation
from cutaway.cli.credentials import DOCKER_HUB, Login
from cutaway.cli.flags import Flag
from cutaway.errors import CutawayError, InvalidArgument, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values

HUB_GREETING = (
    "Login with your Docker ID to push and pull images from Docker Hub. "
    "If you don't have a Docker ID, head over to https://hub.docker.com to create one."
)
UNENCRYPTED = """\
WARNING! Your password will be stored unencrypted in {path}.
Configure a credential helper to remove this warning. See
https://docs.docker.com/engine/reference/commandline/login/#credentials-store
"""


def run_login(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`login [SERVER]`."""
    user, password = values.text("username"), _password(values)
    server = server_of(arguments)
    config = config_file.load()
    if not config.table("auths") and not config.text("credsStore") and (found := credential_helper.detect()):
        config.settings["credsStore"] = found
    known = Login() if user or password else credentials.find(config, server)
    answer = _log_in_again(invocation, server, known) if known.username and known.password else None
    login = known
    if answer is None:
        login = ask(server, user, password, known.username)
        answer = _try(invocation, server, login)
    token = str(answer.get("IdentityToken") or "")
    if token:
        login = Login(login.username, "", token)
    if login.password and not credentials.helper_for(config, server):
        print(UNENCRYPTED.format(path=config.path), file=sys.stderr)
    try:
        credentials.keep(config, server, login)
    except CutawayError as error:
        raise type(error)(f"Error saving credentials: {error}") from None
    if status := answer.get("Status"):
        print(status)
    return 0


def run_logout(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`logout [SERVER]`."""
    server = server_of(arguments)
    config = config_file.load()
    print(f"Removing login credentials for {server}")
    host = credentials.hostname(server)
    names = [server] if server == DOCKER_HUB else [host, f"http://{host}", f"https://{host}"]
    for name in names:
        try:
            credentials.forget(config, name)
        except CutawayError as error:
            print(f"WARNING: could not erase credentials: {error}", file=sys.stderr)
    return 0


def server_of(arguments: list[str]) -> str:
    """The registry that is meant, as config.json names it."""
    given = arguments[0] if arguments else ""
    if given in ("", "docker.io", DOCKER_HUB):
        return DOCKER_HUB
    return credentials.hostname(given)


def ask(server: str, user: str, password: str, known_user: str) -> Login:
    """A name and a password, asked for on the terminal where they are not given. Raises `InvalidArgument`."""
    if not password and not sys.stdin.isatty():
        raise InvalidArgument("Error: Cannot perform an interactive login from a non TTY device")
    user = user.strip()
    if not user:
        if server == DOCKER_HUB:
            print(HUB_GREETING)
        print(f"Username ({known_user}): " if known_user else "Username: ", end="", flush=True)
        user = sys.stdin.readline().strip() or known_user
    if not user:
        raise InvalidArgument("Error: Non-null Username Required")
    if not password:
        print("Password: ", end="", flush=True)
        password = _read_unseen()
        print()
    if not password:
        raise InvalidArgument("Error: Password Required")
    return Login(user, password)


def _read_unseen() -> str:
    """A line typed without echo (termios(3))."""
    import termios

    saved = termios.tcgetattr(0)
    mode = termios.tcgetattr(0)
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSAFLUSH, mode)
    try:
        return sys.stdin.readline().rstrip("\r\n")
    finally:
        termios.tcsetattr(0, termios.TCSANOW, saved)


def _password(values: "Values") -> str:
    password = values.text("password")
    if password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
        if values.on("password-stdin"):
            raise InvalidArgument("--password and --password-stdin are mutually exclusive")
    if values.on("password-stdin"):
        if not values.text("username"):
            raise InvalidArgument("Must provide --username with --password-stdin")
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    return password


def _log_in_again(invocation: Invocation, server: str, known: Login) -> "dict[str, object] | None":
    print("Authenticating with existing credentials...", flush=True)
    try:
        return _try(invocation, server, known)
    except CutawayError as error:
        print(f"Login did not succeed, error: {error}", file=sys.stderr)
        return None


def _try(invocation: Invocation, server: str, login: Login) -> "dict[str, object]":
    answer = invocation.client.call("POST", "/auth", body=login.body(server))
    if not isinstance(answer, dict):
        raise Unknown("the daemon's answer to a login is not an object")
    return answer


LOGIN = Command(
    run_login,
    "Log in to a Docker registry",
    "[SERVER]",
    most=1,
    flags=(
        Flag("password", "p", "string", "Password"),
        Flag("password-stdin", "", "bool", "Read the password from standard input"),
        Flag("username", "u", "string", "User name"),
    ),
)
LOGOUT = Command(run_logout, "Log out from a Docker registry", "[SERVER]", most=1)
