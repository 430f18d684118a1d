"""nginx before a docker-registry: what a registry's users meet between themselves and it.

By the first component of a repository's name:

    slow/      blobs trickle; `reload` cuts those under way
    limited/   two requests a second, the others are told when to come back
    over/      no more for hours, in Docker Hub's words
    moved/     blobs are at another origin, which has a login of its own
    loop/, file/, plain/     manifests lead in circles, to a file, to an unreachable host
"""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

from support.netns import Command, NetNs
from support.peers import peer
from support.process import wait_until
from support.stack import Daemon, GuardedRegistry, dials

OVER = "You have reached your pull rate limit. You may increase the limit by upgrading: https://hub.example/limit"

CONFIG = """\
daemon off;
user root;
worker_processes 1;
worker_shutdown_timeout 50ms;
pid {nginx.folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  log_format seen '$server_port $status $http_range authorization=$http_authorization '
                  '$request_uri $body_bytes_sent';
  access_log {nginx.folder}/access.log seen;
  client_body_temp_path {nginx.folder}/body;
  proxy_temp_path {nginx.folder}/proxy;
  fastcgi_temp_path {nginx.folder}/fastcgi;
  uwsgi_temp_path {nginx.folder}/uwsgi;
  scgi_temp_path {nginx.folder}/scgi;
  client_max_body_size 0;
  limit_req_zone all zone=few:1m rate=2r/s;
  default_type application/json;
  server {{
    listen 127.0.0.1:{nginx.port};
    proxy_set_header Host $http_host;
    location / {{ proxy_pass http://{nginx.registry.host}; }}
    location ~ ^/v2/slow/.*/blobs/sha256: {{
      proxy_pass http://{nginx.registry.host};
      limit_rate 1m;
    }}
    location /v2/limited/ {{
      proxy_pass http://{nginx.registry.host};
      limit_req zone=few;
      limit_req_status 429;
      error_page 429 @limited;
    }}
    location @limited {{
      add_header Retry-After 1 always;
      return 429 '{{"errors":[{{"code":"TOOMANYREQUESTS","message":"slow down"}}]}}';
    }}
    location /v2/over/ {{
      return 429 '{{"errors":[{{"code":"TOOMANYREQUESTS","message":"{over}"}}]}}';
    }}
    location ~ ^/v2/moved/.*/blobs/sha256: {{
      return 307 http://127.0.0.1:{nginx.other_port}$request_uri;
    }}
    location /v2/loop/ {{ return 302 $request_uri; }}
    location /v2/file/ {{ return 302 file:///etc/passwd; }}
    location /v2/plain/ {{ return 302 http://127.0.0.1:1/; }}
  }}
  server {{
    listen 127.0.0.1:{nginx.other_port};
    location / {{
      proxy_pass http://{nginx.registry.host};
      proxy_set_header Authorization "Basic {login}";
    }}
  }}
}}
"""


class Nginx(Daemon):
    """nginx with its own ways, before a registry that asks for a password."""

    def __init__(self, base: Path, netns: NetNs, registry: GuardedRegistry, *, name: str = "ngx") -> None:
        super().__init__(base / name, netns)
        self.registry = registry
        self.port, self.other_port = netns.free_port(), netns.free_port()

    @property
    def host(self) -> str:
        """The registry's part of an image reference."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        login = base64.b64encode(f"{self.registry.user}:{self.registry.password}".encode()).decode()
        (self.folder / "nginx.conf").write_text(CONFIG.format(nginx=self, login=login, over=OVER))

    def command(self) -> Command:
        return [peer("nginx"), "-p", os.fspath(self.folder), "-c", self.folder / "nginx.conf"]

    def is_ready(self) -> bool:
        return self.netns.call(dials, ("127.0.0.1", self.port))

    def reload(self) -> None:
        """Put new workers in the old ones' place, which cut what they have not sent."""
        os.kill(self.pid, signal.SIGHUP)

    def seen(self, port: int, *words: str) -> list[str]:
        """The requests at a port whose lines have all the words; at least one is waited for."""
        wait_until(lambda: bool(self._lines(port, words)), f"a request with {words} in nginx's log")
        return self._lines(port, words)

    def _lines(self, port: int, words: tuple[str, ...]) -> list[str]:
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{port} ") and all(word in line for word in words)]
