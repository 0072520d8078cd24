"""
What a disk may hold after a power cut.

A run is recorded: what was written, synced, renamed and removed below a directory, by
SQLite (whose calls go through a VFS of ours) and by the rest of the process.  Of what
was not synced when the power is cut, each write and each name may be there, or not, or
a write in part.  These states are built, and a spool is opened on each.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import attrs

#: A write that is cut short ends at such a border.
SECTOR_OCTETS = 512


@attrs.frozen
class Event:
    """
    @ivar kind: C{create}, C{write}, C{truncate}, C{sync}, C{rename}, C{link},
        C{unlink}, C{mkdir}; or what the run says of itself: C{said}, C{gone}.
    @ivar path: below the directory.
    @ivar other: the new name.
    @ivar offset: where it is written, or where the file ends.
    """

    kind: str
    path: str = ""
    other: str = ""
    offset: int = 0
    data: bytes = b""


class Recorder:
    """
    @param directory: what happens below it is recorded.
    @ivar events: in their order.
    """

    def __init__(self, directory: str) -> None:
        self._top = os.path.realpath(directory) + "/"
        self._lock = threading.RLock()
        self._seen: dict[str, bytes] = {}
        self.events: list[Event] = []

    def note(self, kind: str, path: str = "", **more: Any) -> None:
        """
        Something has happened.
        """
        with self._lock:
            self.events.append(Event(kind, path, **more))

    def below(self, path: str) -> str | None:
        """
        @return: the path from the directory; C{None} where it is elsewhere.
        """
        full = os.path.abspath(path)
        if not (full + "/").startswith(self._top):
            return None
        return full.removeprefix(self._top) if full + "/" != self._top else "."

    def observe(self, path: str) -> None:
        """
        Note what is in a file that is not SQLite's, if that is new.
        """
        full = os.path.join(self._top, path)
        if os.path.isfile(full) and "sqlite" not in path:
            with open(full, "rb") as file:
                data = file.read()
            if self._seen.get(path) != data:
                self._seen[path] = data
                self.note("truncate", path)
                self.note("write", path, data=data)

    def moved(self, path: str, other: str) -> None:
        """
        What was seen of a file was seen of it under its other name.
        """
        self._seen[other] = self._seen.get(path, b"")

    def new(self, path: str) -> None:
        """
        A file was made.
        """
        self._seen[path] = b""
        self.note("create", path)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """
        While this runs.
        """
        with contextlib.ExitStack() as stack:
            for name in ("open", "fsync", "rename", "link", "unlink", "mkdir"):
                real = getattr(os, name)
                stack.enter_context(mock.patch.object(os, name, _wrapped(self, name, real)))
            with _Vfs(self):
                yield


def _wrapped(recorder: Recorder, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """
    A function of C{os} that tells of it.
    """

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> Any:
        where = recorder.below(os.fspath(path)) if isinstance(path, str) else None
        isNew = where is not None and bool(flags & os.O_CREAT) and not os.path.lexists(path)
        found = real(path, flags, *rest, **more)
        if isNew and where is not None:
            recorder.new(where)
        return found

    def synced(fd: int) -> None:
        where = recorder.below(os.readlink(f"/proc/self/fd/{fd}"))
        if where is not None:
            recorder.observe(where)
        real(fd)
        if where is not None:
            recorder.note("sync", where)

    def named(path: Any, *others: Any, **more: Any) -> None:
        where = recorder.below(os.fspath(path))
        if where is not None and name in ("rename", "link"):
            recorder.observe(where)
        real(path, *others, **more)
        if where is not None:
            other = recorder.below(os.fspath(others[0])) if name in ("rename", "link") else ""
            if other:
                recorder.moved(where, other)
            recorder.note(name, where, other=other or "")

    return {"open": opened, "fsync": synced}.get(name, named)


# SQLite's own way to the disk.

# A name is more than its letters: parameters stand behind them.
_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
)
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_WRITE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

#: The sizes of C{sqlite3_vfs} and C{sqlite3_io_methods}, version 3 of both, and where
#: in them the functions are.
_VFS_OCTETS, _XOPEN, _XDELETE = 168, 40, 48
_METHODS_OCTETS, _XWRITE, _XTRUNCATE, _XSYNC = 152, 24, 32, 40


def _pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


class _Vfs:
    """
    SQLite's default one, which tells of writes, syncs, and files that come and go.
    """

    #: What SQLite may still call: it is never let go.
    _kept: list[Any] = []

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._library.sqlite3_vfs_find.restype = ctypes.c_void_p
        self._library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        self._library.sqlite3_vfs_register.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._library.sqlite3_vfs_unregister.argtypes = [ctypes.c_void_p]
        self._paths: dict[int, str] = {}
        self._methods: dict[int, Any] = {}
        self._isNamed: set[str] = set()

    def __enter__(self) -> _Vfs:
        self._real = self._library.sqlite3_vfs_find(None)
        own = ctypes.create_string_buffer(ctypes.string_at(self._real, _VFS_OCTETS), _VFS_OCTETS)
        self._own = ctypes.addressof(own)
        name = ctypes.create_string_buffer(b"recording-%d" % id(self))
        ctypes.c_void_p.from_address(self._own + 24).value = ctypes.addressof(name)
        self._realOpen = _OPEN(_pointer(self._real + _XOPEN))
        self._realDelete = _DELETE(_pointer(self._real + _XDELETE))
        functions = [_OPEN(self._open), _DELETE(self._delete)]
        for where, function in zip((_XOPEN, _XDELETE), functions, strict=True):
            self._set(self._own + where, function)
        self._kept.append((own, name, functions, self._methods))
        self._library.sqlite3_vfs_register(self._own, 1)
        return self

    def __exit__(self, *_: Any) -> None:
        self._library.sqlite3_vfs_unregister(self._own)
        self._library.sqlite3_vfs_register(self._real, 1)

    def _set(self, address: int, function: Any) -> None:
        ctypes.c_void_p.from_address(address).value = ctypes.cast(function, ctypes.c_void_p).value

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        text = "" if name is None else os.fsdecode(ctypes.string_at(name))
        path = self._recorder.below(text) if text else None
        isNew = path is not None and not os.path.lexists(text)
        code: int = self._realOpen(vfs, name, file, flags, out)
        if code == 0 and path is not None:
            if isNew:
                self._recorder.note("create", path)
            self._paths[file] = path
            real = _pointer(file)
            if real not in self._methods:
                self._methods[real] = self._recordingMethods(real)
            ctypes.c_void_p.from_address(file).value = ctypes.addressof(self._methods[real][0])
        return code

    def _recordingMethods(self, real: int) -> Any:
        own = ctypes.create_string_buffer(ctypes.string_at(real, _METHODS_OCTETS), _METHODS_OCTETS)
        write = _WRITE(_pointer(real + _XWRITE))
        truncate = _TRUNCATE(_pointer(real + _XTRUNCATE))
        sync = _SYNC(_pointer(real + _XSYNC))

        def writing(file: int, data: int, octets: int, offset: int) -> int:
            path = self._paths[file]
            self._recorder.note("write", path, offset=offset, data=ctypes.string_at(data, octets))
            return int(write(file, data, octets, offset))

        def truncating(file: int, octets: int) -> int:
            self._recorder.note("truncate", self._paths[file], offset=octets)
            return int(truncate(file, octets))

        def syncing(file: int, flags: int) -> int:
            code = int(sync(file, flags))
            path = self._paths[file]
            self._recorder.note("sync", path)
            if path.endswith("-wal") and path not in self._isNamed:
                self._isNamed.add(path)  # its first sync is one of its name, too
                self._recorder.note("sync", os.path.dirname(path) or ".")
            return code

        functions = [_WRITE(writing), _TRUNCATE(truncating), _SYNC(syncing)]
        for where, function in zip((_XWRITE, _XTRUNCATE, _XSYNC), functions, strict=True):
            self._set(ctypes.addressof(own) + where, function)
        return own, functions

    def _delete(self, vfs: int, name: bytes, sync: int) -> int:
        path = self._recorder.below(os.fsdecode(name))
        code: int = self._realDelete(vfs, name, sync)
        if path is not None and code == 0:
            self._recorder.note("unlink", path)
            self._isNamed.discard(path)
            if sync:
                self._recorder.note("sync", os.path.dirname(path) or ".")
        return code


# What the disk may hold.


class Inode:
    """
    @ivar durable: what is on the disk for certain.
    @ivar pending: what was written since.
    """

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[Event] = []

    def sync(self) -> None:
        self.durable = self.content(lambda _: 1.0)
        self.pending = []

    def content(self, share: Callable[[Event], float]) -> bytes:
        """
        @param share: how much of a write is there.
        """
        data = bytearray(self.durable)
        for event in self.pending:
            part = share(event)
            if event.kind == "truncate":
                if part:
                    data[:] = data[: event.offset].ljust(event.offset, b"\0")
                continue
            octets = len(event.data)
            if part < 1.0:
                octets = int(octets * part) // SECTOR_OCTETS * SECTOR_OCTETS
            if octets:
                data.extend(bytes(max(0, event.offset + octets - len(data))))
                data[event.offset : event.offset + octets] = event.data[:octets]
        return bytes(data)


#: A change of names: each is made, or not, as a whole.
Names = dict[str, Inode | None]


class Disk:
    """
    What is on it for certain, and what may be.
    """

    def __init__(self) -> None:
        self.live: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.pending: list[Names] = []
        self.directories: set[str] = set()

    def apply(self, event: Event) -> None:
        """
        The next thing that has happened.
        """
        path, inode = event.path, self.live.get(event.path)
        if event.kind == "create":
            self._named({path: Inode()})
        elif event.kind == "mkdir":
            self.directories.add(path)
        elif event.kind in ("write", "truncate"):
            if inode is None:  # it was there when the recording began
                inode = Inode()
                self._named({path: inode})
            inode.pending.append(event)
        elif event.kind == "sync":
            self._sync(path, inode)
        elif event.kind in ("rename", "link") and inode is not None:
            self._named({event.other: inode, **({path: None} if event.kind == "rename" else {})})
        elif event.kind == "unlink":
            self._named({path: None})

    def _named(self, names: Names) -> None:
        self.pending.append(names)
        _rename(self.live, names)

    def _sync(self, path: str, inode: Inode | None) -> None:
        if inode is not None:
            return inode.sync()
        directory = "" if path == "." else path
        left = []
        for names in self.pending:
            if any(os.path.dirname(name) == directory for name in names):
                _rename(self.durable, names)
            else:
                left.append(names)
        self.pending = left
        return None

    def state(self, chance: random.Random, kept: float) -> dict[str, bytes]:
        """
        One of the states after a cut.

        @param kept: how probable it is that something unsynced is there.
        """

        def share(_: Event) -> float:
            return 1.0 if chance.random() < kept else chance.choice((0.0, 0.0, 0.3, 0.7))

        names = dict(self.durable)
        for change in self.pending:
            if chance.random() < kept:
                _rename(names, change)
        some = share if kept else lambda _: 0.0
        contents = {inode: inode.content(some) for inode in set(names.values())}
        return {name: contents[inode] for name, inode in names.items()}


def _rename(names: dict[str, Inode], changes: Names) -> None:
    for name, inode in changes.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def states(
    events: list[Event], seed: int, count: int
) -> Iterator[tuple[int, float, dict[str, bytes]]]:
    """
    @param count: how many of them.
    @return: the number of the events before the cut, how much of what was not synced is
        there, and the files.
    """
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(1, len(events) + 1) for _ in range(count))
    disk, done = Disk(), 0
    for cut in cuts:
        for event in events[done:cut]:
            disk.apply(event)
        done = cut
        kept = chance.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        yield cut, kept, disk.state(chance, kept)


def build(files: dict[str, bytes], directory: str) -> None:
    """
    Write a state.
    """
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
