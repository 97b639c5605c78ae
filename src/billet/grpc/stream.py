"""One call on a connection: the messages that came, and back pressure on those that are sent."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from billet.core.backlog import Backlog
from billet.core.errors import Code
from billet.core.metadata import RETRY_PUSHBACK, retry_ms
from billet.grpc.messages import MessageReader, frame
from billet.grpc.status import RpcError

if TYPE_CHECKING:
    from billet.grpc.connection import Connection

AHEAD = 4  # messages that may wait to be read before the sender gets no further credit
REFUSED = Backlog(each_s=0.05)  # calls of this process that were refused for what they would hold
QUEUED_BYTES = 64 << 10  # what a call may have waiting to be sent before its writer waits


class Stream:
    """One call, as both sides see it.

    `ended`: the other side sends no more messages. `error` says how the call failed. Once it is over, the connection
    knows it no longer (`open` is False).
    """

    __slots__ = (
        "_connection", "_held", "_messages", "_reading", "_room", "_uncredited", "deadline", "ended",
        "error", "id", "reader",
    )  # fmt: skip

    def __init__(self, connection: Connection[Any], stream_id: int) -> None:
        self._connection = connection
        self.id = stream_id
        self.reader = MessageReader(connection.limits.message_limit_bytes)
        self._messages: deque[bytes] = deque()
        self._reading: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._held = 0  # bytes that came and were not read
        self._uncredited = 0  # bytes that came, for which the sender has got no new credit
        self.deadline: asyncio.TimerHandle | None = None
        self.ended = False
        self.error: RpcError | None = None

    @property
    def open(self) -> bool:
        """Whether the call goes on."""
        return self.id in self._connection.calls

    def received(self, data: bytes) -> None:
        """Data came. Its sender may go on, unless many messages wait to be read. Raises RpcError."""
        before_bytes = self.reader.waiting_bytes
        messages = self.reader.feed(data)
        held_bytes = self.reader.waiting_bytes - before_bytes + sum(map(len, messages))
        self._uncredited += len(data)
        self._held += held_bytes
        if not self._connection.hold(held_bytes):
            raise RpcError(
                Code.UNAVAILABLE,
                "calls hold too many bytes that wait to be read; send fewer large requests at a time, or try again",
                ((RETRY_PUSHBACK, str(retry_ms(self.id, REFUSED.refused(self._connection.loop.time(), 0)))),),
            )
        if messages:
            self._messages.extend(messages)
            self.wake()
        self._let_go_on()

    def _let_go_on(self) -> None:
        """Give the sender credit for more, unless many messages wait to be read, or it has to wait for its turn."""
        if len(self._messages) < AHEAD and self.may_have(self.reader.incomplete_bytes):
            self.credit()

    def may_have(self, size: int) -> bool:
        """Whether the rest of a message of `size` bytes may come now. Raises RpcError."""
        return True

    def credit(self) -> None:
        """Let the sender send as many bytes more as came."""
        if self._uncredited:
            self._connection.consumed(self.id, self._uncredited)
            self._uncredited = 0

    def wake(self) -> None:
        """Something came for the reader."""
        if self._reading and not self._reading.done():
            self._reading.set_result(None)

    def room(self) -> None:
        """The writer may go on."""
        if self._room and not self._room.done():
            self._room.set_result(None)

    async def read(self) -> bytes | None:
        """The next message; None when the other side has ended its messages. Raises RpcError if the call failed."""
        while not self._messages:
            if self.error:
                raise self.error
            if self.ended or not self.open:
                return None
            self._reading = self._connection.loop.create_future()
            await self._reading
        message = self._messages.popleft()
        self._release(len(message))
        if self._uncredited and self.open:
            self._let_go_on()
            self._connection.flush_soon()
        return message

    def only(self) -> bytes | None:
        """The message of a unary call whose messages have ended; None if there is not exactly one."""
        if len(self._messages) != 1 or self.reader.waiting_bytes:
            return None
        message = self._messages.popleft()
        self._release(len(message))
        return message

    def _release(self, size: int) -> None:
        self._held -= size
        self._connection.hold(-size)

    async def send(self, message: bytes) -> bool:
        """Send a message, and wait while too many bytes wait to be sent. False: the call is over."""
        connection = self._connection
        if not self.open or not connection.send_data(self.id, frame(message)):
            return False
        while self.open and connection.backed_up(self.id, QUEUED_BYTES):
            self._room = connection.loop.create_future()
            connection.blocked.add(self)
            try:
                await self._room
            finally:
                connection.blocked.discard(self)
        return self.open

    def drop(self) -> None:
        """Nobody will read the messages that wait."""
        self._messages.clear()

    def close(self) -> None:
        """The call is over: give its credit back to the connection, and wake who waits."""
        self.credit()
        if self.deadline:
            self.deadline.cancel()
        if not self._messages:
            self._release(self._held)
        self.room()
        self.wake()
