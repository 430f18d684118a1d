"""containerd.services.transfer.v1.Transfer: one call that moves images, done in `containerd.transfer`."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.server import Call, Service
from cutaway.pb import transfer_pb2 as pb


class Transfer(Service):
    file = pb.DESCRIPTOR
    name = "Transfer"

    def __init__(self, app: App) -> None:
        self._app = app

    async def transfer(self, request: pb.TransferRequest, call: Call) -> Empty:
        # With a registry's client and readers of archives it is most of a daemon's own size.
        from cutaway.containerd.transfer.local import transfer

        await transfer(self._app, request, call.namespace, call.lease)
        return Empty()
