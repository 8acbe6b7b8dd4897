"""A video file opens nothing but itself: no other file and no address, whatever is written in it or in its name.

Watched from outside: a listening socket that nobody may call, and the kernel's own word (inotify) on whether the other
file was opened. Each bait is real: with FFmpeg's defaults, or with what a careless caller sets, it is taken.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from traps import Trap, Watch, set_trap
from video_files import read_number, write_video

from videogn.data.decode import BACKENDS, opening, probe, read_frames
from videogn.errors import VideoError

needs_inotify = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def trap(tmp_path) -> Iterator[Trap]:
    with set_trap(tmp_path) as trap:
        yield trap


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch) -> str:
    """Every backend, installed or not: the file has to be refused before one is asked."""
    monkeypatch.setattr("videogn.data.decode.check_backend", lambda backend: None)
    return request.param


@pytest.fixture(params=["first bytes looked at", "first bytes not looked at"])
def first_bytes(request, monkeypatch) -> bool:
    """Both lines of defence, and FFmpeg's restrictions alone."""
    if request.param == "first bytes not looked at":
        monkeypatch.setattr(opening, "check_file", lambda path: None)
    return request.param == "first bytes looked at"


def hls(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" minBufferTime="PT1S" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000" width="96" height="64">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )


# What a file may hold instead of a video; each is given a path or an address.
TEXTS: dict[str, Callable[[str], str]] = {
    "hls": hls,
    "hls with a mark": lambda target: "\ufeff" + hls(target),
    "hls of Windows": lambda target: hls(target).replace("\n", "\r\n"),
    "hls after blank lines": lambda target: "\n \r\n\t" + hls(target),
    "hls with a key": lambda target: hls(target).replace(
        "#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF'
    ),
    "hls with a map": lambda target: hls(target).replace("#EXTINF", f'#EXT-X-MAP:URI="{target}"\n#EXTINF'),
    "hls of lists": lambda target: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "plain list": lambda target: f"{target}\n",
    "concat": lambda target: f"ffconcat version 1.0\nfile '{target}'\n",
    "concat of Windows": lambda target: f"ffconcat version 1.0\r\nfile '{target}'\r\n",
    "concat after comments": lambda target: f"# a comment\n\nffconcat version 1.0\nfile '{target}'\n",
    "concat after blank lines": lambda target: f"\n\nffconcat version 1.0\nfile '{target}'\n",
    "concat without a header": lambda target: f"file '{target}'\n",
    "dash": dash,
    "dash without a declaration": lambda target: dash(target).split("\n", 1)[1],
    "dash after a comment": lambda target: "<!-- x -->\n" + dash(target).split("\n", 1)[1],
    "asx": lambda target: f'<ASX version="3.0"><Entry><Ref href="{target}"/></Entry></ASX>',
    "pls": lambda target: f"[playlist]\nFile1={target}\nNumberOfEntries=1\nVersion=2\n",
    "reference": lambda target: f"[Reference]\nRef1={target}\n",
    "xspf": lambda target: f'<?xml version="1.0"?><playlist><track><location>{target}</location></track></playlist>',
    "smil": lambda target: f'<smil><body><video src="{target}"/></body></smil>',
    "session description": lambda target: (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 0 RTP/AVP 96\n"
        f"a=rtpmap:96 H264/90000\na=control:{target}\n"
    ),
    "script": lambda target: f'AviSource("{target}")\n',
}
NAMES = ("list.mp4", "list.avi", "list.mkv", "list.m3u8", "list.mpd", "list.sdp")


def refuse(path: Path | str, backend: str = "pyav") -> None:
    with pytest.raises(VideoError):
        read_frames(path, [0], backend)
    with pytest.raises(VideoError):
        probe(path)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_refer_to_others(trap, text, backend, first_bytes):
    for target in (str(trap.other), trap.other.name, f"file:{trap.other}", trap.address):
        for name in NAMES:
            path = trap.folder / name
            path.write_text(TEXTS[text](target))
            refuse(path, backend)
    assert trap.touched() == set()


@pytest.mark.parametrize("text", ["hls", "concat", "dash"])
def test_the_commonest_get_a_plain_message(trap, text):
    path = trap.folder / "list.mp4"
    path.write_text(TEXTS[text](str(trap.other)))
    with pytest.raises(VideoError, match=r"list\.mp4: not a video file: a playlist or text that refers to other files"):
        read_frames(path, [0])


@needs_inotify
@pytest.mark.parametrize(("text", "name"), [("concat", "list.mp4"), ("hls", "list.m3u8")])
def test_the_baits_are_taken_without_restrictions(trap, text, name):
    path = trap.folder / name
    for target, expected in ((trap.other.name, "file"), (trap.address, "address")):
        path.write_text(TEXTS[text](target))
        with contextlib.suppress(av.FFmpegError, OSError, IndexError):
            options = {"safe": "0"} if text == "concat" else {}
            av.open(str(path), options={**options, "protocol_whitelist": "file,http,tcp"}, timeout=0.2).close()
        assert trap.touched() == {expected}


# -- films whose frames lie in another file ---------------------------------------------------------------------------


def boxes_around(data: bytes, kind: bytes) -> list[int]:
    """Starts of the boxes from ``moov`` down to the first one of this kind, all of which hold it."""
    at = data.index(kind) - 4
    return [
        start
        for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf")
        if (start := data.index(name) - 4) < at < start + struct.unpack(">I", data[start : start + 4])[0]
    ]


def refer(film: bytes, entry: bytes) -> bytes:
    """A film (index first) whose one data reference is ``entry``, without its own frames."""
    data = bytearray(film[: film.index(b"mdat") - 4])
    at = data.index(b"dref") - 4
    old = struct.unpack(">I", data[at : at + 4])[0]
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    for start in boxes_around(data, b"dref"):
        size = struct.unpack(">I", data[start : start + 4])[0] + len(new) - old
        data[start : start + 4] = struct.pack(">I", size)
    data[at : at + old] = new
    return bytes(data)


def alias(path: str) -> bytes:
    """A Macintosh alias record with the absolute path, as FFmpeg reads it (``mov_read_dref`` in mov.c)."""
    name = path.encode() + b"\0" * (len(path) % 2)
    record = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + struct.pack(">HH", 0, 0) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0)
    record += bytes(160)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def url(address: str) -> bytes:
    text = address.encode() + b"\0"
    return struct.pack(">I4sI", 12 + len(text), b"url ", 0) + text


@pytest.mark.parametrize("kind", ["alias", "url"])
def test_films_whose_frames_lie_elsewhere(trap, kind, backend, first_bytes):
    film = trap.other.read_bytes()
    trap.touched()
    for target in (str(trap.other), trap.other.name, f"file://{trap.other}", trap.address):
        data = refer(film, (alias if kind == "alias" else url)(target))
        for name, padding in (
            ("film.mov", b""),
            ("film.mp4", struct.pack(">I4s", 8 + len(film), b"mdat") + bytes(len(film))),
        ):
            path = trap.folder / name
            path.write_bytes(data + padding)
            refuse(path, backend)
    assert trap.touched() == set()


@needs_inotify
def test_the_alias_is_followed_without_restrictions(trap):
    path = trap.folder / "film.mov"
    path.write_bytes(refer(trap.other.read_bytes(), alias(str(trap.other))))
    trap.touched()
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert len(list(container.decode(video=0))) == 5
    assert trap.touched() == {"file"}


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_that_are_addresses(trap, monkeypatch, backend, first_bytes):
    monkeypatch.chdir(trap.folder)
    other = trap.other
    prefixes = ("file:", "concat:", "concatf:", "cache:", "async:", "crypto:", "subfile,,start,0,end,0,,:", "tee:")
    names = [f"{prefix}{other}" for prefix in prefixes]
    names += [f"concat:{other}|{other}", f"file://{other}", "pipe:0", "pipe:", "fd:", "-", f"unix:{other}"]
    names += [
        trap.address,
        trap.address.replace("http", "tcp"),
        f"hls+{trap.address}",
        f"data:video/mp4;base64,{other}",
    ]
    names += ["other%d.mp4", "oth*.mp4", "glob:oth*", "color=red", "testsrc", "lavfi:testsrc", ""]
    names += ["\0", "other.mp4\0"] if first_bytes else []
    for name in names:
        refuse(name, backend)
    assert trap.touched() == set()


@pytest.mark.skipif(os.name == "nt", reason="no such file names")
def test_a_file_may_have_such_a_name(trap, monkeypatch):
    """It is a file all the same, and the one of that very name."""
    monkeypatch.chdir(trap.folder)
    for name in ("concat:x.mp4", "http:x.mp4", "pipe:0", "-i.mp4", "film%03d.mp4", "a*.mp4", "a\nb.mp4", "été 🎞.mp4"):
        write_video(trap.folder / "plain.mp4", 3).rename(trap.folder / name)
        assert [read_number(frame) for frame in read_frames(name, [2, 0])] == [2, 0]
    assert trap.touched() == set()


@needs_inotify
@pytest.mark.parametrize("pattern", ["picture%03d.jpg", "picture%03d.png"])
def test_a_name_that_is_a_pattern_of_pictures(trap, pattern, backend, first_bytes):
    picture = trap.folder / (pattern % 1)
    with av.open(str(picture), "w", format="image2") as container:
        stream = container.add_stream("png" if pattern.endswith("png") else "mjpeg", rate=1)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "rgb24" if pattern.endswith("png") else "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(96, 64, stream.pix_fmt)))
        container.mux(stream.encode(None))
    watch = Watch(picture)
    with contextlib.closing(watch), av.open(str(trap.folder / pattern)):
        assert watch.opened()  # the bait is taken without restrictions
    watch = Watch(picture)
    with contextlib.closing(watch):
        (trap.folder / pattern).write_bytes(picture.read_bytes())
        watch.opened()
        refuse(trap.folder / pattern, backend)
        assert not watch.opened()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_links_are_followed_to_whole_videos_alone(trap, backend):
    """Data sets are often folders of links; what a link leads to is held to the same rules."""
    link = trap.folder / "link.mp4"
    link.symlink_to(trap.other.name)
    assert [read_number(frame) for frame in read_frames(link, [4, 1])] == [4, 1]
    trap.touched()
    (trap.folder / "list.mp4").write_text(hls(str(trap.other)))
    for target in ("list.mp4", "nothing.mp4", "link.mp4", "/dev/zero", "/dev/stdin", "."):
        link.unlink()
        link.symlink_to(target)
        refuse(link, backend)
    assert trap.touched() == set()
