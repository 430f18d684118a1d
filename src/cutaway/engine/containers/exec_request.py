"""The body of POST /containers/{id}/exec."""

from cutaway.engine.containers.config import words
from cutaway.engine.documents import DockerDocument


class ExecRequest(DockerDocument):
    """What to run and how."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | str | None = None

    @property
    def command(self) -> list[str]:
        return words(self.cmd)


class ExecStart(DockerDocument):
    """The body of POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None
