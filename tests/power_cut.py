"""What a power cut can leave of a folder, told from the system calls of the program that wrote there.

`record` runs a program under strace. `cuts` replays its calls on a model of a disk, and yields for every point between
them what the folder may hold if the power goes there. The model trusts nothing but what POSIX promises:

- What was written is on disk for certain once an `fsync` or `fdatasync` of the file that began after the write has
  returned; a name is, once one of the folder has. That a file was flushed says nothing of its name.
- Anything else is on disk or not, in any order; a write may be torn between sectors, and a gap reads as zeros. Only
  changes of one and the same name keep their order, as in every journal.

Left out: sectors that read as errors or as somebody else's old data, and drives that lie about a flush. The program may
have any number of threads, but must not fork. A call that the model does not know is an error, never passed over.
"""

import itertools
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SECTORS = (512, 4096)
PRINTS_TO = 1  # the descriptor of the standard output

HARMLESS = {
    *("access", "chdir", "chmod", "chown", "execve", "faccessat", "faccessat2", "fadvise64", "fchmod", "fchown"),
    *("fcntl", "fgetxattr", "flock", "fstat", "fstatfs", "getcwd", "getdents64", "getxattr", "ioctl", "lstat"),
    *("newfstatat", "pread64", "preadv", "readahead", "readlink", "readlinkat", "readv", "stat", "statfs", "statx"),
    "utimensat",
}
"""Calls that change neither what a file holds nor its name."""


class Call(NamedTuple):
    """A system call that has returned. Calls of other threads may have begun or ended between `start` and `end`."""

    name: str
    arguments: str
    result: int
    start: int
    end: int


@dataclass(frozen=True)
class State:
    """What a folder holds after a power cut, by name, and the lines that the program had printed before."""

    files: dict[str, bytes]
    printed: list[str]
    only_synced: bool
    """Whether nothing is there but what was flushed."""


def why_not():
    """What keeps `record` from working here; `None`: nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace cannot trace here: {done.stderr.strip()}" if done.returncode else None


_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. \w+ resumed>(?P<rest>.*)|(?P<text>\w+\(.*))")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\w+|\?)")
_UNFINISHED = " <unfinished ...>"


def record(command, environment, scratch):
    """The system calls of a program, which has to end well; strace writes into the folder `scratch` meanwhile."""
    output = scratch / "strace"
    options = ["-f", "-y", "-xx", "-s", str(1 << 24), "--seccomp-bpf", "-e", "trace=%file,%desc", "-o", output]
    # Its working directory is elsewhere, so that no path into the folder can be relative.
    subprocess.run(["strace", *options, *command], env=environment, cwd="/", stdout=subprocess.DEVNULL, check=True)
    unfinished = {}
    calls = []
    with output.open() as lines:
        for number, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:  # a signal, or a thread's end
                continue
            thread, rest, text = found.group("thread", "rest", "text")
            if text and text.endswith(_UNFINISHED):
                unfinished[thread] = text.removesuffix(_UNFINISHED), number
                continue
            text, start = (text, number) if text else unfinished.pop(thread)
            name, arguments, result = _CALL.match(text + (rest or "")).groups()
            calls.append(Call(name, arguments, -1 if result == "?" else int(result, 0), start, number))
    output.unlink()
    return calls


def cuts(calls, folder, *, choices, seed) -> Iterator[State]:
    """The states that a power cut can leave of `folder`: what was flushed, alone, after each flush and each line
    printed; and between each two of these random `choices` of what may be there.

    A line that the program writes to its standard output counts as printed as soon as that write begins.
    """
    chance = random.Random(seed)
    rehearsal = _Disk(folder)
    points = _some_points(
        [(settled, rehearsal.may_differ()) for settled in _replayed(rehearsal, calls)], chance, choices
    )
    disk = _Disk(folder)
    for number, settled in enumerate(_replayed(disk, calls)):
        if settled:
            yield disk.what_was_synced()
        for _ in range(points[number]):
            yield disk.by_chance(chance)


def written(calls, folder):
    """The files as the program left them, if the model has understood all that it did."""
    disk = _Disk(folder)
    for _ in _replayed(disk, calls):
        pass
    return disk.what_was_written()


def _replayed(disk, calls):
    """Does the calls one by one, and yields after each that matters: whether it was a flush, or printed a line."""
    moments = [(call.start, disk.begin, call) for call in calls] + [(call.end, disk.end, call) for call in calls]
    for _, happens, call in sorted(moments, key=lambda moment: moment[0]):  # stable: a call begins before it ends
        if happens(call):
            yield call.name in ("fsync", "fdatasync") or _fd(call) == PRINTS_TO


def _some_points(points, chance, choices):
    """How often to cut at each point where something may differ: each stretch up to the next settled one alike."""
    counts = Counter()
    stretch = []
    for number, (settled, may_differ) in enumerate([*points, (True, False)]):
        if settled and stretch:
            counts.update(chance.choices(stretch, k=choices))
            stretch = []
        if may_differ:
            stretch.append(number)
    return counts


class _Write(NamedTuple):
    offset: int
    data: bytes

    def apply(self, content):
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, sector):
        """Its parts, none of which reaches over the end of a sector."""
        end = self.offset + len(self.data)
        cuts = [self.offset, *range(self.offset - self.offset % sector + sector, end, sector), end]
        return [_Write(a, self.data[a - self.offset : b - self.offset]) for a, b in itertools.pairwise(cuts)]


class _Resize(NamedTuple):
    size: int

    def apply(self, content):
        content.extend(bytes(max(0, self.size - len(content))))
        del content[self.size :]

    def torn(self, sector):
        return [self]


class _Names(NamedTuple):
    """Names that stand for other files from now on, or for none."""

    files: dict

    def apply(self, names):
        names.update(self.files)
        for name in [name for name, file in names.items() if file is None]:
            del names[name]


class _Inode:
    """A file or a folder: what of it is on disk for certain, and the changes that may be."""

    def __init__(self, empty):
        self.synced = empty
        self.pending = []
        self.made = 0

    def change(self, change):
        self.pending.append(change)
        self.made += 1

    def sync(self, made):
        """The first `made` of all changes that there ever were are on disk for certain."""
        count = max(0, made - (self.made - len(self.pending)))
        for change in self.pending[:count]:
            change.apply(self.synced)
        del self.pending[:count]


class _File(_Inode):
    def __init__(self):
        super().__init__(bytearray())
        self.size = 0  # as the program sees it

    def change(self, change):
        super().change(change)
        self.size = change.size if isinstance(change, _Resize) else max(self.size, change.offset + len(change.data))

    def written(self):
        content = bytearray(self.synced)
        for change in self.pending:
            change.apply(content)
        return bytes(content)

    def by_chance(self, chance, share):
        content = bytearray(self.synced)
        sector = chance.choice((*SECTORS, None))
        parts = [part for change in self.pending for part in (change.torn(sector) if sector else [change])]
        kept = [part for part in parts if chance.random() < share]
        if chance.random() < 0.5:
            chance.shuffle(kept)
        for part in kept:
            part.apply(content)
        return bytes(content)


class _Folder(_Inode):
    def __init__(self):
        super().__init__({})
        self.now = {}  # as the program sees it

    def change(self, change):
        super().change(change)
        change.apply(self.now)

    def by_chance(self, chance, share):
        names = dict(self.synced)
        undone = set()
        for change in self.pending:
            if undone.isdisjoint(change.files) and chance.random() < share:
                change.apply(names)
            else:
                undone |= change.files.keys()
        return names


@dataclass
class _Descriptor:
    inode: _Inode
    appends: bool
    offset: int = 0


class _Disk:
    """The folder, as a program's calls leave it. `begin` and `end` tell whether a cut may now mean something else."""

    def __init__(self, path):
        self._path = os.path.realpath(path)
        self._mention = re.compile(f'[<"]{re.escape(_escaped(self._path))}((?:\\\\x2f(?:\\\\x..)+)?)[>"]')
        self._folder = _Folder()
        self._open = {}
        self._syncing = {}
        self._printed = []

    def begin(self, call):
        fd = _fd(call)
        if call.name in ("fsync", "fdatasync") and fd in self._open:
            self._syncing[call] = self._open[fd].inode.made
        if call.name != "write" or fd != PRINTS_TO:
            return False
        self._printed += _strings(call)[0].decode().splitlines()
        return True

    def end(self, call):
        if call.result < 0 or (call.name in HARMLESS and "F_DUPFD" not in call.arguments):
            return False
        fd = _fd(call)
        match call.name:
            case "open" | "openat" | "creat":
                return self._opened(call)
            case "close":
                self._open.pop(fd, None)
                return False
            case _ if fd in self._open:
                return self._used(call, self._open[fd])
            case _:
                return self._named(call)

    def may_differ(self):
        """Whether there is something that may be on disk, or may be not."""
        return any(inode.pending for inode in (self._folder, *self._folder.now.values(), *self._folder.synced.values()))

    def what_was_written(self):
        return {name: file.written() for name, file in self._folder.now.items()}

    def what_was_synced(self):
        files = {name: bytes(file.synced) for name, file in self._folder.synced.items()}
        return State(files, list(self._printed), only_synced=True)

    def by_chance(self, chance):
        share = chance.random()
        names = self._folder.by_chance(chance, share)
        files = {name: file.by_chance(chance, share) for name, file in names.items()}
        return State(files, list(self._printed), only_synced=False)

    def _opened(self, call):
        path = _strings(call)[0]
        name = self._name_of(path)
        made = self._folder.made
        if os.fsdecode(path) == self._path:
            inode = self._folder
        elif name is None:
            return self._passed_over(call)
        else:
            if name not in self._folder.now:
                self._folder.change(_Names({name: _File()}))
            inode = self._folder.now[name]
            if "O_TRUNC" in call.arguments or call.name == "creat":
                inode.change(_Resize(0))
                made = -1
        self._open[call.result] = _Descriptor(inode, "O_APPEND" in call.arguments)
        return self._folder.made != made

    def _used(self, call, descriptor):
        inode = descriptor.inode
        match call.name:
            case "fsync" | "fdatasync":
                inode.sync(self._syncing.pop(call))
            case "write" | "writev":
                start = inode.size if descriptor.appends else descriptor.offset
                inode.change(_Write(start, b"".join(_strings(call))[: call.result]))
                descriptor.offset = start + call.result
            case "pwrite64" | "pwritev":
                inode.change(_Write(_numbers(call)[-1], b"".join(_strings(call))[: call.result]))
            case "ftruncate":
                inode.change(_Resize(_numbers(call)[-1]))
            case "fallocate" if _numbers(call)[0] == 0:  # this mode makes a file longer, never shorter
                inode.change(_Write(sum(_numbers(call)[1:]), b""))
            case "read":
                descriptor.offset += call.result
                return False
            case "lseek":
                descriptor.offset = call.result
                return False
            case "mmap" if "MAP_PRIVATE" in call.arguments or "PROT_WRITE" not in call.arguments:
                return False
            case _:
                raise _unknown(call)
        return True

    def _named(self, call):
        names = []
        if call.name in ("rename", "renameat", "renameat2", "unlink", "unlinkat"):
            names = [self._name_of(path) for path in _strings(call)]
        match names:
            case [str(name)]:
                self._folder.change(_Names({name: None}))
            case [str(old), str(new)] if "RENAME_" not in call.arguments:
                self._folder.change(_Names({old: None, new: self._folder.now[old]}))
            case _:
                return self._passed_over(call)
        return True

    def _name_of(self, path):
        """The name of a file of the folder, if a path leads to one. SQLite makes its -shm anew: that one is no file."""
        folder, _, name = os.fsdecode(path).rpartition("/")
        return name if folder == self._path and not name.endswith("-shm") else None

    def _passed_over(self, call):
        """Raise if a call is about the folder after all."""
        if any(not name.endswith(_escaped("-shm")) for name in self._mention.findall(call.arguments)):
            raise _unknown(call)
        return False


_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def _escaped(text):
    """Text as strace writes it."""
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(text))


def _strings(call):
    """The strings among a call's arguments."""
    found = _STRING.findall(call.arguments)
    if any(shortened for _, shortened in found):
        raise ValueError("strace has shortened what was written")
    return [bytes.fromhex(digits.replace("\\x", "")) for digits, _ in found]


def _numbers(call):
    """The plain numbers behind a call's last string or descriptor."""
    behind = max(map(call.arguments.rfind, '"]>'))
    return [int(number) for number in call.arguments[behind:].split(", ")[1:]]


def _fd(call):
    """The descriptor that a call is about; -1 for one that is about names."""
    find = re.search(r", (\d+)<", call.arguments) if call.name == "mmap" else re.match(r"(\d+)<", call.arguments)
    return int(find[1]) if find else -1


def _unknown(call):
    return NotImplementedError(f"the model of a disk does not know {call.name}({call.arguments[:200]})")
