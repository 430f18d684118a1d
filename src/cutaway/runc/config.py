"""Reading a bundle's config.json: types first, then the meaning (`validate`)."""

import os

from cutaway.errors import InvalidArgument, NotFound, PermissionDenied
from cutaway.linux import libc, smallfile
from cutaway.oci import document
from cutaway.oci.runtime_spec import Process, Spec
from cutaway.runc import checks

FILE = "config.json"
_LARGEST = 32 << 20  # bytes; the largest honest ones, with hundreds of devices, are below 1 MB


def enter_bundle(path: str) -> str:
    """Make a bundle the working directory, as hooks expect; its absolute path. Raises `NotFound`."""
    if path:
        try:
            os.chdir(path)
        except PermissionError as error:
            raise PermissionDenied(f"chdir {path}: {libc.words(error.errno or 0)}") from None
        except OSError as error:
            raise NotFound(f"chdir {path}: {libc.words(error.errno or 0)}") from None
    return os.getcwd()


def load() -> tuple[Spec, str]:
    """The configuration in the working directory, and its text.

    Raises `NotFound`, and `InvalidArgument` with the JSON path of what is wrong.
    """
    text = read()
    return parse(text), text


def read() -> str:
    """The text of the configuration in the working directory. Raises as `load`."""
    return _read(FILE)


def parse(text: str) -> Spec:
    """A configuration. Raises `InvalidArgument` with the JSON path of what is wrong."""
    spec = document.loads(Spec, text, FILE)
    _check_texts(spec, text, FILE)
    return spec


def _check_texts(found: document.Document, text: str, what: str) -> None:
    """Refuse what no program and no file's name can hold; JSON can hold it by escapes only."""
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        checks.all_texts(found, f"{what}:")


def _read(path: str) -> str:
    try:
        data = smallfile.read(path, _LARGEST + 1)
    except FileNotFoundError:
        raise NotFound(f"JSON specification file {path} not found") from None
    except OSError as error:
        raise InvalidArgument(f"open {path}: {libc.words(error.errno or 0)}") from None
    if len(data) > _LARGEST:
        raise InvalidArgument(f"{path}: larger than {_LARGEST >> 20} MB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not UTF-8 at byte {error.start}") from None


def load_process(path: str) -> Process:
    """The process that `exec --process` names. Raises `NotFound`, `InvalidArgument`."""
    try:
        data = smallfile.read(path, _LARGEST)
    except OSError as error:
        raise NotFound(f"open {path}: {libc.words(error.errno or 0)}") from None
    what = os.path.basename(path)
    process = document.loads(Process, data, what)
    _check_texts(process, data.decode(errors="replace"), what)
    return process
