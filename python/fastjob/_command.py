"""Keyword arguments of a start, and their one way into the native core."""

from __future__ import annotations

import codecs
import io
import os
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, TypedDict, Union

from . import _native

if TYPE_CHECKING:
    from typing_extensions import Unpack

PIPE: int = subprocess.PIPE
STDOUT: int = subprocess.STDOUT
DEVNULL: int = subprocess.DEVNULL
CAPTURE: int = -4
"""Collect the stream in the background, bounded by ``max_output``."""
_INHERIT = -5
# What `open` takes for a buffer: a C int.
_MOST = (1 << 31) - 1

DEFAULT_MAX_OUTPUT = 64 << 20

StrOrBytes = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Args = StrOrBytes | Sequence[StrOrBytes]
File = int | IO[Any] | None


class SpawnOptions(TypedDict, total=False):
    """Keyword arguments of `Job.spawn`; those of `subprocess.Popen` mean what they mean there."""

    stdin: File
    stdout: File
    """None (the owner's own), PIPE, DEVNULL, CAPTURE, a descriptor or a file."""
    stderr: File
    """The same, or STDOUT."""
    cwd: StrOrBytes | None
    env: Mapping[Any, Any] | None
    executable: StrOrBytes | None
    shell: bool
    text: bool | None
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None
    bufsize: int
    pipesize: int
    input: bytes | str | None
    """Written to the child's standard input in the background."""
    timeout: float | None
    """Seconds; then the process and its descendants are ended, and ``timed_out`` is true."""
    grace: float
    """Seconds between SIGTERM and SIGKILL at the timeout; 0: SIGKILL at once."""
    suspended: bool
    """Do not run its first instruction until `Process.resume`."""
    pass_fds: Iterable[int]
    """At most 59 beside the standard streams."""
    close_fds: bool
    restore_signals: bool
    start_new_session: bool
    process_group: int | None
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    umask: int
    max_output: int | None
    """Bytes kept of each captured stream, half of them its end; None keeps everything."""
    preexec_fn: None


class Command:
    """A command with options of its own: those of `Job.spawn`, over what `Job.map` was given."""

    __slots__ = ("args", "options")

    def __init__(self, args: Args, **options: Unpack[SpawnOptions]) -> None:
        unknown = options.keys() - SpawnOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
        self.args = args
        self.options = options

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Command({self.args!r}{options})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command):
            return NotImplemented
        return self.args == other.args and self.options == other.options

    __hash__ = None  # type: ignore[assignment]


def _descriptor(file: File) -> int:
    if file is None:
        return _INHERIT
    if isinstance(file, int) and not isinstance(file, bool):
        if file < CAPTURE:
            raise ValueError(f"{file} is not a stream or a descriptor")
        return file
    try:
        return file.fileno()  # type: ignore[union-attr]
    except AttributeError:
        raise TypeError(f"a stream is an int or a file with fileno(), not {file!r}") from None


def _environment(env: Mapping[Any, Any] | None) -> list[bytes] | None:
    if env is None:
        return None
    entries = []
    for key, value in env.items():
        name = os.fsencode(key)
        if b"=" in name:
            raise ValueError(f"illegal environment variable name: {key!r}")
        entries.append(name + b"=" + os.fsencode(value))
    return entries


def _user_id(user: str | int | None, kind: str) -> int:
    """A number for a user or a group; -1 for None."""
    if user is None:
        return -1
    if isinstance(user, str):
        import grp
        import pwd

        return pwd.getpwnam(user).pw_uid if kind == "user" else grp.getgrnam(user).gr_gid
    if isinstance(user, bool) or not isinstance(user, int):
        raise TypeError(f"{kind} must be a name or a number, not {user!r}")
    if user < 0:
        raise ValueError(f"{kind} can't be negative, got {user}")
    return user


def _group_id(group: str | int) -> int:
    if group is None:
        raise TypeError("items of extra_groups must be names or numbers, not None")
    return _user_id(group, "group")


def _size(size: int | None, name: str) -> int:
    if size is None:
        return -1
    if not isinstance(size, int):
        raise TypeError(f"{name} must be an integer")
    if size > _MOST:
        raise OverflowError(f"{name} is too large: {size}")
    return size


def command_iterator(commands: Iterable[Args | Command]) -> Iterator[Args | Command]:
    """A lone command would be taken letter by letter."""
    if isinstance(commands, (str, bytes, os.PathLike, Command)):
        raise TypeError(f"commands must be an iterable of commands, not {commands!r}")
    return iter(commands)


class Launcher:
    """Options made ready for the native core, for any number of commands."""

    def __init__(
        self, options: SpawnOptions, *, leftovers: str = "kill", collect: bool = False, lenient: bool = False
    ) -> None:
        """With ``collect`` there is nobody to hand a pipe to: PIPE means CAPTURE.

        With ``lenient`` output that is no text does not raise, unless ``errors`` says so.
        """
        self.lenient = lenient
        self.options = options
        # A TypedDict's own `get` has no type once it has another name.
        get: Callable[..., Any] = options.get
        if get("preexec_fn") is not None:
            raise ValueError(
                "preexec_fn is refused: no Python runs between fork and exec; use cwd, env, umask, user, group, "
                "extra_groups, start_new_session, process_group, restore_signals or pass_fds"
            )
        if not get("close_fds", True):
            raise ValueError("close_fds=False is refused: name the descriptors to be inherited in pass_fds")
        if leftovers not in ("kill", "keep", "error"):
            raise ValueError(f"leftovers must be 'kill', 'keep' or 'error', not {leftovers!r}")
        self.encoding: str | None = get("encoding")
        self.errors: str | None = get("errors")
        self.text = bool(get("text") or get("universal_newlines") or self.encoding or self.errors)
        text, newlines = get("text"), get("universal_newlines")
        if text is not None and newlines is not None and bool(text) != bool(newlines):
            raise subprocess.SubprocessError("text and universal_newlines are different: give one of them")
        if self.text:
            # The streams are opened when the process runs already; it is too late then.
            codecs.lookup(self.encoding or _default_encoding())
            codecs.lookup_error(self.errors or "strict")
        self.bufsize = _size(get("bufsize"), "bufsize")
        self.shell = bool(get("shell"))
        self.executable: StrOrBytes | None = get("executable")
        self.timeout: float | None = get("timeout")
        self.leftovers = leftovers
        self.native = self._native(collect)
        if self.bufsize == 1 and not self.text and not collect:
            warnings.warn(
                "line buffering (bufsize=1) isn't supported in binary mode", RuntimeWarning, stacklevel=3
            )

    def _native(self, collect: bool) -> _native.Options:
        get: Callable[..., Any] = self.options.get
        data = get("input")
        stdin = _descriptor(get("stdin"))
        if data is not None:
            if get("stdin") is not None:
                raise ValueError("stdin and input may not both be used")
            stdin = PIPE
        payload = None if data is None else self.encode(data)
        if collect:
            if get("suspended"):
                raise ValueError("suspended=True needs spawn: here nobody could resume it")
            if stdin == PIPE and payload is None:
                # Nobody to write: its end is closed, as `subprocess.run` does.
                payload = b""
        streams = [_descriptor(get("stdout")), _descriptor(get("stderr"))]
        if collect:
            streams = [CAPTURE if stream == PIPE else stream for stream in streams]
        max_output = get("max_output", DEFAULT_MAX_OUTPUT)
        if max_output is not None and max_output < 0:
            raise ValueError("max_output can't be negative")
        group = get("process_group")
        if group is not None and group < 0:
            raise ValueError("process_group can't be negative")
        groups = get("extra_groups")
        if isinstance(groups, str):
            raise ValueError("extra_groups must be a list, not a string")
        return _native.Options(
            stdin=stdin,
            stdout=streams[0],
            stderr=streams[1],
            cwd=get("cwd"),
            env=_environment(get("env")),
            executable=None if self.shell else self.executable,
            pass_fds=sorted({int(fd) for fd in get("pass_fds", ())}),
            suspended=bool(get("suspended")),
            restore_signals=bool(get("restore_signals", True)),
            umask=get("umask", -1),
            uid=_user_id(get("user"), "user"),
            gid=_user_id(get("group"), "group"),
            groups=None if groups is None else [_group_id(each) for each in groups],
            new_session=bool(get("start_new_session")),
            process_group=-1 if group is None else group,
            pipe_size=_size(get("pipesize"), "pipesize"),
            max_output=max_output,
            input=payload,
            timeout=self.timeout,
            grace=get("grace", 0.0),
            leftovers=int(self.leftovers == "keep"),
        )

    def argv(self, args: Args) -> Sequence[StrOrBytes]:
        """The argument list, by the rules of `subprocess` on POSIX."""
        if isinstance(args, (str, bytes, os.PathLike)):
            if self.shell and isinstance(args, os.PathLike):
                raise TypeError("path-like args is not allowed when shell is true")
            args = [args]
        elif not isinstance(args, Iterable):
            raise TypeError(f"args must be a string or a sequence of arguments, not {args!r}")
        if self.shell:
            return [self.executable or "/bin/sh", "-c", *args]
        return args

    def encode(self, data: bytes | str) -> bytes:
        if self.text:
            if not isinstance(data, str):
                raise TypeError(f"input must be str in text mode, not {type(data).__name__}")
            return data.encode(self.encoding or _default_encoding(), self.errors or "strict")
        return bytes(memoryview(data))  # type: ignore[arg-type]

    def decode(self, data: bytes | None, *, partial: bool = False) -> Any:
        """Text if text was asked for. In ``partial`` output a character may be cut."""
        if data is None or not self.text:
            return data
        errors = self.errors or ("backslashreplace" if partial or self.lenient else "strict")
        text = data.decode(self.encoding or _default_encoding(), errors)
        return text.replace("\r\n", "\n").replace("\r", "\n")


def _default_encoding() -> str:
    # What TextIOWrapper takes when nothing is said; resolves UTF-8 mode and the locale.
    return io.TextIOWrapper(io.BytesIO()).encoding
