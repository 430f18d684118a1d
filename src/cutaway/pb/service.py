"""Method tables of protobuf services, read from the generated descriptors.

Both transports use these tables: gRPC for the daemon's API and ttrpc for the
shim. Nothing here imports grpc, so that a shim stays small.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


class Method(NamedTuple):
    """One method of a service.

    The streaming flags tell how many messages each direction carries, and so
    which of the four gRPC handler kinds serves the method. Without the flag a
    direction carries exactly one message; with it, any number, none included.
    ``client_streaming`` is about requests, ``server_streaming`` about
    responses, and they are independent: a plain call has neither, Content.Read
    has only ``server_streaming``, Content.Write has both. No method of the
    shim's task service has either.
    """

    service: str
    """Full name, such as ``containerd.task.v2.Task``."""
    name: str
    path: str
    """The HTTP/2 ``:path`` of the call, ``/<service>/<name>``."""
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


def methods(file: FileDescriptor, service_name: str) -> dict[str, Method]:
    """Return the methods of a service by name, in the order of declaration.

    ``file`` is the ``DESCRIPTOR`` of a generated module and ``service_name``
    the short name of a service declared there. Raises KeyError if the file
    declares no such service.
    """
    service = file.services_by_name[service_name]
    return {
        method.name: Method(
            service=service.full_name,
            name=method.name,
            path=f"/{service.full_name}/{method.name}",
            request=GetMessageClass(method.input_type),
            response=GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in service.methods
    }
