"""Image references: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, as Docker reads and refuses them.

A reference is kept normalized: `busybox` is `docker.io/library/busybox`. What people read is the
familiar form again. Source of the grammar: the distribution project's reference package; the texts of
the refusals are Docker's.

The CLI loads this module for every command, so it is matched by hand and imports nothing but errors.
"""

from cutaway.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255  # characters, of domain and path together
MAX_TAG = 128

_DIGITS = frozenset("0123456789")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_WORD = _ALNUM | {"_"}
_HEX = frozenset("0123456789abcdef")
_DIGEST_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference:
    """A normalized reference; `tag` and `digest` are empty when not given."""

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str = "", digest: str = "") -> None:
        self.domain = domain
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """Domain and path: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as people write it: `busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL)
        if "/" not in short:
            return short
        # Without its host, a path such as a.b/c would be read as one with the host a.b.
        return self.name if _split_domain(self.path)[0] != DEFAULT_DOMAIN else self.path

    @property
    def familiar(self) -> str:
        """The whole reference as people write it: `busybox:latest`."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> "Reference":
        """This reference, or with `latest` if it has neither tag nor digest."""
        return self if self.tag or self.digest else self.with_tag(DEFAULT_TAG)

    def with_tag(self, tag: str) -> "Reference":
        """The same name with this tag and no digest; `InvalidArgument` if it is none."""
        if not is_tag(tag):
            raise InvalidArgument("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: str) -> "Reference":
        """The same name with this digest and no tag; `InvalidArgument` if it is none."""
        check_digest(digest)
        return Reference(self.domain, self.path, "", digest)

    def __str__(self) -> str:
        return self.name + self._suffix

    def __repr__(self) -> str:
        return f"Reference({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))


def parse(text: str) -> Reference:
    """Read and normalize a reference. Raises `InvalidArgument` with Docker's text for anything else."""
    if is_full_id(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    head, at, digest = remainder.partition("@")
    path, colon, tag = head.partition(":")
    # What is called the name here ends at the first colon, be that a digest's, as Docker has it.
    name = remainder.partition(":")[0]
    if name.lower() != name:
        raise InvalidArgument(f"invalid reference format: repository name ({name}) must be lowercase")
    valid = is_domain(domain) and is_path(path) and (is_tag(tag) if colon else True)
    if not valid or (at and not _has_digest_form(digest)):
        raise InvalidArgument("invalid reference format")
    if len(domain) + 1 + len(path) > MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {MAX_NAME} characters")
    if at:
        check_digest(digest)
    return Reference(domain, path, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    """Part the host from the rest: it has a dot, a colon or an upper-case letter, or is `localhost`."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == LEGACY_DEFAULT_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL + remainder
    return domain, remainder


def is_domain(text: str) -> bool:
    """Whether this is a host name, an IPv4 address or a bracketed IPv6 one, perhaps with a port."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        host_fits = bool(bracket and address) and all(c in _HEX or c in "ABCDEF:" for c in address)
        return host_fits and (not port or (port[0] == ":" and _is_number(port[1:])))
    host, colon, port = text.partition(":")
    return all(map(_is_host_label, host.split("."))) and (not colon or _is_number(port))


def _is_host_label(text: str) -> bool:
    return (
        bool(text) and text[0] in _ALNUM and text[-1] in _ALNUM and all(c in _ALNUM or c == "-" for c in text)
    )


def _is_number(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)


def is_path(text: str) -> bool:
    """Whether this is a repository path: components of lower-case letters and digits with separators."""
    return all(map(_is_path_component, text.split("/")))


def _is_path_component(text: str) -> bool:
    """Runs of letters and digits; between two of them stands `.`, `_`, `__` or any number of `-`."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    separator = ""
    for character in text:
        if character not in _LOWER:
            separator += character
        elif separator:
            if separator not in (".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
    return True


def is_tag(text: str) -> bool:
    """Whether this is a tag: a word character, then up to 127 word characters, dots and dashes."""
    if not 0 < len(text) <= MAX_TAG or text[0] not in _WORD:
        return False
    return all(c in _WORD or c in ".-" for c in text)


def _has_digest_form(text: str) -> bool:
    algorithm, _, value = text.partition(":")
    fits = len(value) >= 32 and _HEX.issuperset(value.lower())
    return fits and bool(algorithm) and all(c in _ALNUM or c in "-_+." for c in algorithm)


def is_digest(text: str) -> bool:
    """Whether this is the digest of an algorithm we know, with the right number of lower-case digits."""
    algorithm, _, value = text.partition(":")
    return len(value) == _DIGEST_LENGTH.get(algorithm, -1) and _HEX.issuperset(value)


def check_digest(text: str) -> None:
    """Raise `InvalidArgument` saying what is wrong with a digest, if anything is."""
    if is_digest(text):
        return
    algorithm, _, value = text.partition(":")
    if not _has_digest_form(text):
        raise InvalidArgument("invalid checksum digest format")
    if algorithm not in _DIGEST_LENGTH:
        raise InvalidArgument("unsupported digest algorithm")
    if len(value) != _DIGEST_LENGTH[algorithm]:
        raise InvalidArgument("invalid checksum digest length")
    raise InvalidArgument("invalid checksum digest format")


def is_full_id(text: str) -> bool:
    """Whether this is the 64 hexadecimal digits of an ID, which no repository may be called."""
    return len(text) == 64 and _HEX.issuperset(text)


def is_id_prefix(text: str) -> bool:
    """Whether this could be an ID or the start of one, with or without `sha256:`."""
    digits = text.removeprefix("sha256:")
    return 0 < len(digits) <= 64 and _HEX.issuperset(digits)
