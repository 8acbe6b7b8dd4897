"""Files that ask for more than they are: large frames cost no memory before they are refused."""

import subprocess
import sys

import av
import pytest
from video_files import write_video

from videogn.data.decode import probe
from videogn.errors import VideoError

CHILD = """
import resource, sys
from videogn.data.decode import Limits, probe
from videogn.errors import VideoError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    probe(sys.argv[1], limits=Limits(max_pixels=int(sys.argv[2])))
    print("no error")
except VideoError as error:
    print(error.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
@pytest.mark.parametrize("name", ["bomb.mp4", "bomb.mkv", "bomb.ts", "bomb.webm"])
def test_large_frames_are_refused_before_they_are_decoded(tmp_path, name):
    path = tmp_path / name
    width, height = (4096, 4096) if name.endswith("webm") else (8192, 4096)  # VP9 is slow to write
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9" if name.endswith("webm") else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "deadline": "realtime", "cpu-used": "8"}
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    done = subprocess.run([sys.executable, "-c", CHILD, path, "1000000"], capture_output=True, text=True, timeout=60)
    reason, megabytes = done.stdout.splitlines()
    assert "more than the 1,000,000 of max_pixels" in reason
    assert float(megabytes) < 0.85 * 1.5 * width * height / 2**20  # one frame of its pixels takes more


@pytest.mark.parametrize(
    ("box", "at", "options"), [("stsz", 8, {}), ("trun", 4, {"movflags": "frag_keyframe+empty_moov"})]
)
def test_an_index_of_more_frames_than_bytes(tmp_path, box, at, options):
    path = tmp_path / "many.mp4"
    write_video(path, 12, container_options=options)
    data = bytearray(path.read_bytes())
    start = data.rindex(box.encode()) + 4 + at
    data[start : start + 4] = (30_000_000).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"its index names 30,000,000 frames in \d+ bytes"):
        probe(path)
