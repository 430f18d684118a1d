"""All containers: found by id, a prefix of it, or name; names are unique; changes are written through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cutaway.engine import names
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound

if TYPE_CHECKING:
    from cutaway.engine.containers.model import Container
    from cutaway.engine.state.containers import ContainerTable

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_TRIES: Final = 8


class ContainerIndex:
    """The containers in memory, in step with the database.

    A name is reserved before its container exists, so that two creates at once cannot both have it.
    """

    def __init__(self, table: ContainerTable) -> None:
        self._table = table
        self._by_id: dict[str, Container] = {}
        self._id_of_name: dict[str, str] = {}

    def load(self) -> None:
        """Read what was stored."""
        for container in self._table.load():
            self._by_id[container.id] = container
            self._id_of_name[container.name] = container.id

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def by_id(self, container_id: str) -> Container | None:
        """The container with exactly this id."""
        return self._by_id.get(container_id)

    def get(self, reference: str) -> Container:
        """A container by full id, by name (with or without a leading slash), or by an unambiguous prefix.

        Raises `NotFound`, or `InvalidArgument` for a prefix of several, in Docker's words.
        """
        if found := self._by_id.get(reference):
            return found
        owner = self._id_of_name.get(reference.removeprefix("/"), "")
        if container := self._by_id.get(owner):
            return container
        matches = [
            container for key, container in self._by_id.items() if reference and key.startswith(reference)
        ]
        if len(matches) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
        if not matches:
            raise NotFound(f"No such container: {reference}")
        return matches[0]

    def reserve(self, name: str, container_id: str) -> str:
        """Take a name for a container to be; "" generates one. Returns the name without a slash.

        Raises `InvalidArgument` for characters that a name may not have, `AlreadyExists` if it is taken.
        """
        if not name:
            return self._generate(container_id)
        bare = name.removeprefix("/")
        if not _NAME.fullmatch(bare):
            raise InvalidArgument(
                f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )
        if owner := self._id_of_name.get(bare):
            raise AlreadyExists(
                f'Conflict. The container name "/{bare}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._id_of_name[bare] = container_id
        return bare

    def _generate(self, container_id: str) -> str:
        for attempt in range(_TRIES):
            name = names.generate(attempt)
            if name not in self._id_of_name:
                self._id_of_name[name] = container_id
                return name
        self._id_of_name[container_id[:12]] = container_id
        return container_id[:12]

    def release(self, name: str) -> None:
        """Give a reserved name back."""
        self._id_of_name.pop(name, None)

    def add(self, container: Container) -> None:
        """A container whose name is reserved exists from now on."""
        self._table.insert(container)
        self._by_id[container.id] = container

    def save(self, container: Container) -> None:
        """Write a container's new state."""
        self._table.save_state(container)

    def save_config(self, container: Container) -> None:
        self._table.save_config(container)

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name. Raises as `reserve` does."""
        new = self.reserve(name, container.id)
        old, container.name = container.name, new
        try:
            self._table.save_config(container)
        except BaseException:
            container.name = old
            self.release(new)
            raise
        self.release(old)

    def remove(self, container: Container) -> None:
        """Forget a container and its name."""
        self._table.delete(container.id)
        del self._by_id[container.id]
        self.release(container.name)
