"""containerd.services.content.v1.Content.

Write is a conversation: the first message names the ref (and may say size and digest), then any number
of STAT, WRITE and COMMIT, each answered with the offset so far. A client that was cut off comes back
with the same ref, learns the offset from STAT and goes on there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd import filters, names
from cutaway.containerd.app import App
from cutaway.containerd.content.store import Session
from cutaway.containerd.metadata.blobs import Blob, Ingest
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import timestamp
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound, OutOfRange, Unknown
from cutaway.pb import content_events_pb2 as events
from cutaway.pb import content_pb2 as pb
from cutaway.trace import spans

LIST_BLOCK = 100


class Content(Service):
    file = pb.DESCRIPTOR
    name = "Content"

    def __init__(self, app: App) -> None:
        self._app = app
        self._store = app.content

    async def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        return pb.InfoResponse(info=_info(await self._store.info(call.namespace, request.digest)))

    async def update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        info, paths = request.info, list(request.update_mask.paths)
        changed = await self._store.update(call.namespace, info.digest, dict(info.labels), paths)
        return pb.UpdateResponse(info=_info(changed))

    async def list(self, request: pb.ListContentRequest, call: Call) -> AsyncIterator[pb.ListContentResponse]:
        found = await self._store.find(call.namespace, filters.parse_all(request.filters))
        for start in range(0, len(found), LIST_BLOCK):
            yield pb.ListContentResponse(info=map(_info, found[start : start + LIST_BLOCK]))

    async def delete(self, request: pb.DeleteContentRequest, call: Call) -> Empty:
        if problem := names.digest_problem(request.digest):
            raise InvalidArgument(problem)
        await self._store.delete(call.namespace, request.digest, call.lease)
        self._app.gc.released()
        event = events.ContentDelete(digest=request.digest)
        self._app.bus.publish(call.namespace, "/content/delete", event)
        return Empty()

    async def read(self, request: pb.ReadContentRequest, call: Call) -> AsyncIterator[pb.ReadContentResponse]:
        if problem := names.digest_problem(request.digest):
            raise InvalidArgument(f"{request.digest}: {problem}")
        offset = 0  # counted from where the request begins, as containerd does
        chunks = self._store.read(call.namespace, request.digest, request.offset, request.size)
        async for data in chunks:
            yield pb.ReadContentResponse(offset=offset, data=data)
            offset += len(data)

    async def status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        try:
            return pb.StatusResponse(status=_status(*await self._store.status(call.namespace, request.ref)))
        except NotFound as error:
            raise NotFound(f'could not get status for ref "{request.ref}": {error}') from None

    async def list_statuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        found = await self._store.statuses(call.namespace, filters.parse_all(request.filters))
        return pb.ListStatusesResponse(statuses=[_status(*one) for one in found])

    async def abort(self, request: pb.AbortRequest, call: Call) -> Empty:
        await self._store.abort(call.namespace, request.ref, call.lease)
        return Empty()

    async def write(
        self, requests: AsyncIterator[pb.WriteContentRequest], call: Call
    ) -> AsyncIterator[pb.WriteContentResponse]:
        first = await anext(requests, None)
        if first is None:
            raise Unknown("EOF")
        if not first.ref:
            raise InvalidArgument("first message must have a reference")
        opened = self._store.write(call.namespace, first.ref, max(first.total, 0), first.expected, call.lease)
        async with opened as session:
            talk = _Conversation(self._app, call, session)
            request: pb.WriteContentRequest | None = first
            while request is not None:
                yield await talk.answer(request)
                if request.action == pb.COMMIT:
                    return
                request = await anext(requests, None)


class _Conversation:
    """One Write: what the client has said so far."""

    def __init__(self, app: App, call: Call, session: Session) -> None:
        self._app = app
        self._call = call
        self._session = session
        self._total = 0
        self._expected = ""

    async def answer(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        session = self._session
        await self._learn(request)
        if request.action == pb.STAT:
            return pb.WriteContentResponse(
                action=request.action,
                started_at=timestamp(session.ingest.started),
                updated_at=timestamp(session.updated),
                offset=session.offset,
                total=self._total,
                digest=session.digest,
            )
        await self._append(request)
        answer = pb.WriteContentResponse(action=request.action, offset=session.offset, digest=session.digest)
        if request.action == pb.COMMIT:
            await self._commit(request)
        return answer

    async def _learn(self, request: pb.WriteContentRequest) -> None:
        self._total = request.total or self._total
        if request.expected:
            self._expected = request.expected
            await self._refuse_known(request.expected)

    async def _refuse_known(self, digest: str) -> None:
        """Somebody else may have written the same blob in the meantime."""
        try:
            await self._app.content.info(self._call.namespace, digest)
        except NotFound:
            return
        await self._session.abort()
        raise AlreadyExists(f"blob with expected digest {digest} exists")

    async def _append(self, request: pb.WriteContentRequest) -> None:
        session = self._session
        if request.offset > 0 and request.offset != session.offset:
            raise OutOfRange(f"write @{request.offset} must occur at current offset {session.offset}")
        if request.offset == 0 and session.offset > 0 and (request.data or request.action == pb.WRITE):
            await session.truncate()
        if request.data:
            await session.write(request.data)

    async def _commit(self, request: pb.WriteContentRequest) -> None:
        with spans.span("content commit", ref=self._session.ingest.ref) as span:
            blob = await self._session.commit(self._total, self._expected, dict(request.labels))
            span.set(digest=blob.digest, size=blob.size)
        event = events.ContentCreate(digest=blob.digest, size=blob.size)
        self._app.bus.publish(self._call.namespace, "/content/create", event)


def _info(blob: Blob) -> pb.Info:
    return pb.Info(
        digest=blob.digest,
        size=blob.size,
        created_at=timestamp(blob.created),
        updated_at=timestamp(blob.updated),
        labels=blob.labels,
    )


def _status(ingest: Ingest, offset: int) -> pb.Status:
    return pb.Status(
        started_at=timestamp(ingest.started),
        updated_at=timestamp(ingest.updated),
        ref=ingest.ref,
        offset=offset,
        total=ingest.total,
        expected=ingest.shared,
    )
