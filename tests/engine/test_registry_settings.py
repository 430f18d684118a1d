"""Mirrors, certificates and tokens as the daemon is told of them, beside dockerd where it can be told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.engine_stack import REAL_BELOW
from support import tokens
from support.certificates import Authority, Pair
from support.netns import NetNs
from support.peers import need, peer
from support.stack import Engine, OurEngine, RealContainerd, RealDockerd, RealRegistry
from support.tokens import TokenService

pytestmark = [pytest.mark.root, pytest.mark.peers]

ADDRESS = "10.99.0.2"  # not loopback, where certificates are not looked at
INSECURE = ("--insecure-registry", "10.98.0.0/16", "--insecure-registry", "reg.example:5000")


@pytest.fixture(scope="module")
def place(session_base: Path) -> Iterator[NetNs]:
    need("docker", "dockerd", "docker-registry", "busybox")
    with NetNs() as netns:
        netns.run([peer("busybox"), "ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
        yield netns


@pytest.fixture(scope="module")
def mirror(session_base: Path, place: NetNs) -> Iterator[RealRegistry]:
    with RealRegistry(session_base, place, name="mirror") as running:
        running.push_busybox()
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(session_base: Path, place: NetNs, mirror: RealRegistry) -> Iterator[OurEngine]:
    arguments = [
        *REAL_BELOW, "--bridge", "none", "--registry-mirror", f"http://{mirror.host}", *INSECURE,
        "--certs-dir", str(session_base / "certs"), "--max-concurrent-downloads", "2",
    ]  # fmt: skip
    with RealContainerd(session_base, place, name="set-ctd") as containerd:
        with OurEngine(session_base, place, containerd.address, arguments, name="set-ours") as engine:
            yield engine


@pytest.fixture(scope="module")
def dockerd(session_base: Path, place: NetNs, mirror: RealRegistry) -> Iterator[RealDockerd]:
    arguments = ["--bridge", "none", "--registry-mirror", f"http://{mirror.host}", *INSECURE]
    with RealDockerd(session_base, place, extra_args=arguments, name="set-real") as engine:
        yield engine


def test_images_of_docker_hub_come_from_the_mirror(ours: OurEngine, dockerd: RealDockerd) -> None:
    """Docker Hub cannot be reached from here at all."""
    mine, real = (engine.docker("pull", "busybox").stdout for engine in (ours, dockerd))
    assert mine.splitlines()[-2:] == real.splitlines()[-2:]
    assert "Status: Downloaded newer image for busybox:latest" in mine
    assert "No such host" not in mine


def test_what_the_mirror_has_not_is_told_of_docker_hub(ours: OurEngine) -> None:
    done = ours.docker("pull", "nothing", check=False)
    assert done.returncode == 1
    assert 'Get "https://registry-1.docker.io/v2/": dial tcp' in done.stderr


def test_the_registries_in_info_are_dockerds(ours: OurEngine, dockerd: RealDockerd) -> None:
    def registries(engine: Engine) -> dict[str, object]:
        config: dict[str, object] = json.loads(engine.request("GET", "/info")[1])["RegistryConfig"]
        cidrs = config["InsecureRegistryCIDRs"]
        assert isinstance(cidrs, list)
        for old in ("AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"):
            config.pop(old, None)
        config["InsecureRegistryCIDRs"] = sorted(set(cidrs) - {"::1/128"})  # newer ones' alone
        return config

    assert registries(ours) == registries(dockerd)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_logins_ask_the_token_service_as_dockerd_does(
    ours: OurEngine, dockerd: RealDockerd, place: NetNs, authority: Authority, base_dir: Path,
    session_base: Path, secure: bool,
) -> None:  # fmt: skip
    """What is asked for when one logs in and pulls, request by request; https of ours alone.

    Which folder dockerd has its certificates in cannot be chosen.
    """
    pair = authority.sign("tokens", f"IP:{ADDRESS}")
    tls = pair.server_context() if secure else None
    address = ADDRESS if secure else "127.0.0.1"
    with TokenService(place, authority.sign("signer"), address=address, tls=tls) as service:
        config = service.config(authority.pair.certificate)
        with SecureRegistry(base_dir, place, pair if secure else None, config) as registry:
            if secure:
                folder = session_base / "certs" / registry.host
                folder.mkdir(parents=True)
                shutil.copy(authority.pair.certificate, folder / "ca.crt")
            engines = [ours] if secure else [ours, dockerd]
            seen = [_log_in_and_pull(engine, registry, service) for engine in engines]
    assert all(one == seen[0] for one in seen)
    assert [(asked["method"], asked["scope"]) for asked in seen[0]] == [
        ("GET", ""),
        ("POST", "repository:public/none:pull"),
    ]


class SecureRegistry(RealRegistry):
    """docker-registry that believes tokens, over TLS or not."""

    def __init__(self, base: Path, netns: NetNs, pair: Pair | None, config: str) -> None:
        super().__init__(base, netns, name="tokens", extra_config=config)
        self.pair = pair
        if pair:
            self.address = ADDRESS

    def prepare(self) -> None:
        super().prepare()
        if self.pair:
            tls = f"  tls:\n    certificate: {self.pair.certificate}\n    key: {self.pair.key}\n"
            file = self.folder / "config.yml"
            file.write_text(file.read_text().replace("  secret:", f"{tls}  secret:"))


def _log_in_and_pull(engine: Engine, registry: RealRegistry, service: TokenService) -> list[dict[str, str]]:
    """The requests for tokens, without what is each client's own."""
    service.asked.clear()
    words = ("login", "-u", tokens.USER, "--password-stdin", registry.host)
    refused = engine.docker(*words, input="wrong", check=False).stderr
    assert "unauthorized: incorrect username or password" in refused
    service.asked.clear()
    assert "Login Succeeded" in engine.docker(*words, input=tokens.PASSWORD).stdout
    assert "manifest unknown" in engine.docker("pull", f"{registry.host}/public/none", check=False).stderr
    engine.docker("logout", registry.host)
    names = ("scope", "service", "account", "offline_token", "grant_type", "refresh_token", "access_type")
    return [
        {"method": asked.method, "password": asked.password, **{name: asked.one(name) for name in names}}
        for asked in service.asked
    ]
