"""A Jupyter Server extension that shows what a kernel's Labs do while the kernel is busy.

It reads the telemetry segment of a kernel of this server and streams it to the page by WebSocket; the kernel isn't
asked. docs/messages.md has the protocol, docs/live.md says who may connect.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from .live.feed import ALIVE, Feed
from .live.renderer import Renderer
from .segment import NotYours, Segment, SegmentError, attach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LiveHandler", "Pictures", "ViewHandler"]

#: Updates per second.
RATE, SLOWEST, FASTEST = 10.0, 0.1, 30.0
#: Seconds without another message after which a page is told that its figures are the newest.
BEAT: Final = 0.7
#: Messages that may be under way to a client; one that is slower skips updates.
UNDER_WAY: Final = 4
#: Why a connection was closed.
ENDED, REFUSED, BROKEN, FORBIDDEN, NOT_FOUND = 1001, 1003, 1011, 4403, 4404
#: Processes below a kernel's that are looked at, renderers of a server, and connections to it.
FAMILY, RENDERERS, SOCKETS = 256, 8, 200
#: Bytes of a message from a page; the longest that makes sense has some hundred.
MESSAGE_BYTES: Final = 4096
#: Seconds between two wishes for a picture that are granted: each starts a process.
PICTURE_PAUSE: Final = 0.5
#: Bytes of a reason in a close frame (RFC 6455: 123).
REASON_BYTES: Final = 120
#: Reading a segment takes milliseconds, of a hostile one more: no other page waits for it.
READERS: Final = ThreadPoolExecutor(2, "nif_lab live")

Picture = tuple[int, int, str, int, float]


def _load_jupyter_server_extension(server: Any) -> None:
    url = url_path_join(server.web_app.settings["base_url"], "nif_lab", "live")
    page = url_path_join(server.web_app.settings["base_url"], "nif_lab", r"(view\.js|view\.css)")
    server.web_app.add_handlers(".*$", [(url, LiveHandler, {"pictures": Pictures()}), (page, ViewHandler)])


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all below it, the nearest first: some kernel specs wrap the kernel in another program."""
    waiting = [pid]
    while waiting:
        yield (one := waiting.pop(0))
        with suppress(OSError):  # it has ended meanwhile
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())


def _find(pid: int, lab: int | None) -> tuple[int, Segment]:
    """Return the segment of a kernel's Lab, the newest unless one is named, and whose it is."""
    for it in islice(_family(pid), FAMILY):
        try:
            segments = attach(it)
        except NotYours:
            if it == pid:
                raise
            continue
        except SegmentError:
            continue
        for segment in reversed(segments):
            if lab in (None, int(segment.header["base_ticks"])):
                return it, segment
    raise SegmentError("the kernel has no such Lab")


def _short(reason: str) -> str:
    """Cut a reason to what a close frame can hold; its text may come from another process."""
    printable = "".join(it if it.isprintable() else " " for it in reason)
    return printable.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


class Pictures:
    """The renderers of a server: one for each Lab, theme and size, as long as somebody looks."""

    def __init__(self) -> None:
        self.sockets = 0  # connections that are open
        self._shown: dict[Picture, tuple[Renderer, set[Callable[[bytes], None]]]] = {}
        self._newest: dict[Picture, bytes] = {}

    def watch(self, which: Picture, show: Callable[[bytes], None]) -> None:
        """Call ``show`` with each new picture; at once with the newest there is."""
        if which not in self._shown:
            if len(self._shown) >= RENDERERS:  # a page without pictures has the numbers
                return
            renderer = Renderer(*which)
            self._shown[which] = renderer, set()
            asyncio.get_running_loop().add_reader(renderer.fileno(), self._pass_on, which)
        self._shown[which][1].add(show)
        if which in self._newest:
            show(self._newest[which])

    def leave(self, which: Picture, show: Callable[[bytes], None]) -> None:
        """Look away; whoever is last ends the renderer."""
        if which in self._shown:
            self._shown[which][1].discard(show)
            if not self._shown[which][1]:
                self._end(which)

    def _pass_on(self, which: Picture) -> None:
        renderer, viewers = self._shown[which]
        try:
            picture = renderer.frame()
        except EOFError:  # who looks asks again, or is content with the numbers
            self._end(which)
            return
        if picture is not None:
            self._newest[which] = picture
            for show in viewers:
                show(picture)

    def _end(self, which: Picture) -> None:
        renderer, _ = self._shown.pop(which)
        self._newest.pop(which, None)
        asyncio.get_running_loop().remove_reader(renderer.fileno())
        renderer.close()


class ViewHandler(JupyterHandler):
    """The views' JavaScript and style, for a page that shows them without a widget of the kernel's."""

    @authenticated
    async def get(self, name: str) -> None:
        """Send one of the two."""
        from .panels.live import LiveView  # what widgets need is imported when somebody looks

        is_style = name.endswith(".css")
        self.set_header("Content-Type", "text/css" if is_style else "text/javascript")
        self.set_header("Cache-Control", "no-cache")
        self.finish(LiveView._css if is_style else LiveView._esm)


class LiveHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """One client's view of one Lab."""

    auth_resource = "kernels"

    def initialize(self, pictures: Pictures) -> None:
        """Take what all handlers share; called by tornado."""
        self._pictures = pictures
        self._process = -1
        self._task: asyncio.Task[None] | None = None
        self._beats: asyncio.Task[None] | None = None
        self._visible = asyncio.Event()
        self._visible.set()
        self._sent = self._arrived = 0
        self._wanted: Picture | None = None
        self._picture: bytes | None = None
        self._wish: tuple[str, int, float] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._granted = -PICTURE_PAUSE
        self._found = self._is_counted = False

    def set_default_headers(self) -> None:
        """Set none: those of a page mean nothing here."""

    async def get(self) -> None:
        """Let in whoever may open the kernel's own channels."""
        user = self.current_user
        if user is None or not await ensure_async(self.authorizer.is_authorized(self, user, "execute", "kernels")):
            raise HTTPError(403)
        try:
            self._lab = int(text) if (text := self.get_argument("lab", "")) else None
            self._set_rate(float(self.get_argument("rate", str(RATE))))
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        if self._pictures.sockets >= SOCKETS:
            raise HTTPError(503, f"nif_lab: {SOCKETS} pages are connected already")
        await super().get()

    def open(self) -> None:
        """Begin."""
        super().open()
        self._is_counted = True
        self._pictures.sockets += 1
        self.set_nodelay(True)
        self._task = asyncio.create_task(self._serve(self.get_argument("kernel", "")))

    async def _serve(self, kernel: str) -> None:
        """Find the Lab, and send what it does."""
        try:
            pid = self._process_of(kernel)
            self._pid, segment = await asyncio.get_running_loop().run_in_executor(READERS, _find, pid, self._lab)
        except NotYours as error:
            self._refuse(FORBIDDEN, str(error))
            return
        except (SegmentError, ProcessLookupError) as error:
            self._refuse(NOT_FOUND, str(error))
            return
        try:
            self._lab = int(segment.header["base_ticks"])
            self._found = True
            self._grant()
            self._beats = asyncio.create_task(self._beat())
            await self._stream(Feed(segment))
        except WebSocketClosedError:
            pass
        except Exception as error:  # a segment is what a kernel made of it; only its own page may suffer
            self.log.warning("nif_lab: the segment of process %d makes no sense: %s", self._pid, _short(str(error)))
            self._refuse(BROKEN, "the segment makes no sense")

    def _refuse(self, code: int, reason: str) -> None:
        self.close(code, _short(reason))

    def _process_of(self, kernel: str) -> int:
        pid = None
        if kernel in self.kernel_manager:
            pid = getattr(getattr(self.kernel_manager.get_kernel(kernel), "provisioner", None), "pid", None)
        if pid is None:
            raise SegmentError("this server has no such kernel, or it runs on another machine")
        self._process = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._process, self._end)
        return int(pid)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process)
        self.close(ENDED, "the kernel has ended")

    async def _stream(self, feed: Feed) -> None:
        """Send what is new, as often as the client wants it and not faster than it takes it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._visible.wait()
            began = loop.time()
            if self._sent - self._arrived < UNDER_WAY:
                if (update := await loop.run_in_executor(READERS, feed.update)) is not None:
                    await self._send(update)
                if self._picture is not None:
                    picture, self._picture = self._picture, None
                    await self._send(picture)
            await asyncio.sleep(max(0.0, began + 1 / self._rate - loop.time()))

    async def _beat(self) -> None:
        """Tell a page to which nothing else is sent that its figures are the newest."""
        with suppress(WebSocketClosedError):
            while True:
                before = self._sent
                await asyncio.sleep(BEAT)
                await self._visible.wait()
                if before == self._sent and before - self._arrived < UNDER_WAY:
                    await self._send(ALIVE)

    async def _send(self, message: bytes) -> None:
        await self.write_message(message, binary=True)
        self._sent += 1
        self.ping(b"%d" % self._sent)  # its answer says that the message has arrived: a write only fills buffers

    def on_pong(self, data: bytes) -> None:
        """Note what has arrived."""
        super().on_pong(data)  # type: ignore[no-untyped-call] # it has none
        if data.isdigit():
            self._arrived = min(int(data), self._sent)

    def on_message(self, message: str | bytes) -> None:
        """Do what the client asks for."""
        try:
            if len(message) > MESSAGE_BYTES:
                raise ValueError(f"{len(message)} bytes are too many")
            if not isinstance(asked := json.loads(message), dict):
                raise TypeError("an object is wanted")
            if "visible" in asked:
                self._show(bool(asked["visible"]))
            if "rate" in asked:
                self._set_rate(float(asked["rate"]))
            if "picture" in asked:
                self._want(asked["picture"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            self._refuse(REFUSED, f"not understood: {type(error).__name__}: {error}")

    def log_exception(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Log what went wrong without the request's query, where the token may be."""
        self.log.warning("nif_lab: %s: %s: %s", self.request.path, type(error).__name__, _short(str(error)))

    def _set_rate(self, rate: float) -> None:
        if not SLOWEST <= rate <= FASTEST:
            raise ValueError(f"rate must be {SLOWEST} to {FASTEST}")
        self._rate = rate

    def _show(self, visible: bool) -> None:
        if visible != self._visible.is_set():
            (self._visible.set if visible else self._visible.clear)()
            self._grant()

    def _want(self, picture: dict[str, Any] | None) -> None:
        self._wish = None
        if picture is not None:
            theme, width, scale = str(picture["theme"]), round(picture["width"]), round(4 * picture["scale"]) / 4
            if theme not in {"light", "dark"}:
                raise ValueError("theme must be light or dark")
            self._wish = theme, min(max(width, 200), 2000), min(max(scale, 1.0), 3.0)
        self._grant()

    def _grant(self) -> None:
        """Watch the picture that is wished for. To look away happens at once, another picture starts a process."""
        wish = self._wish if self._found and self._visible.is_set() else None
        wanted = (self._pid, self._lab or 0, *wish) if wish else None
        if self._wanted not in (None, wanted):
            self._pictures.leave(self._wanted, self._keep)
            self._wanted = self._picture = None
        if wanted is None or wanted == self._wanted or self._later is not None:
            return
        loop = asyncio.get_running_loop()
        if (pause := self._granted + PICTURE_PAUSE - loop.time()) > 0:
            self._later = loop.call_later(pause, self._grant_later)
            return
        self._granted, self._wanted = loop.time(), wanted
        self._pictures.watch(wanted, self._keep)

    def _grant_later(self) -> None:
        self._later = None
        self._grant()

    def _keep(self, picture: bytes) -> None:
        self._picture = picture

    def on_close(self) -> None:
        """Leave nothing behind."""
        if self._process >= 0:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = -1
        for task in filter(None, (self._task, self._beats)):
            task.cancel()
        self._task = self._beats = None
        if self._later:
            self._later.cancel()
        if self._wanted:
            self._pictures.leave(self._wanted, self._keep)
            self._wanted = None
        if self._is_counted:
            self._is_counted = False
            self._pictures.sockets -= 1
        super().on_close()
