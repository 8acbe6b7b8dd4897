"""The command `videogn classify`: what is typed, what comes out, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import children
from video_files import write_video

import videogn
from videogn.cli import main
from videogn.data.guard import AVAILABLE

forks = pytest.mark.skipif(not AVAILABLE, reason="this system cannot fork processes")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{i}.mp4", 30 + i, width=64 + 32 * i)) for i in range(2)]


@pytest.fixture
def command(checkpoint, capfd):
    """Runs `videogn classify`; gives exit code, the lines of standard output, and standard error."""

    def classify(*arguments):
        code = main(["classify", *map(str, arguments), "--checkpoint", str(checkpoint)])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err

    return classify


def test_folders_files_and_lists(command, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = sorted(map(str, (tiny_data / "val").rglob("*.mp4")))
    spaced = tmp_path / "a b.mp4"
    spaced.write_bytes(Path(files[0]).read_bytes())
    listed = tmp_path / "list.txt"
    listed.write_text(f"# a comment\na b.mp4 some class\n\n{files[0]},3\n{files[1]}\t4\n")
    code, out, err = command(tiny_data / "val", "--list", listed, "--format", "json", "--topk", 1)
    assert code == 0
    rows = [json.loads(line) for line in out]
    assert [row["video"] for row in rows] == [*files, "a b.mp4"]
    assert all(len(row["predictions"]) == 1 for row in rows)
    assert "2 of 11 paths are there again" in err
    assert "9 videos x 2 clips" in err
    code, out, err = command(spaced)
    assert (code, out[0], err) == (0, str(spaced), "")


def test_one_file_more_fails(command, videos, tmp_path):
    missing = str(tmp_path / "missing.mp4")
    code, out, err = command(videos[0], missing, videos[1], "--format", "json")
    assert code == 1
    rows = [json.loads(line) for line in out]
    assert [row["video"] for row in rows] == [videos[0], missing, videos[1]]
    assert "error" in rows[1]
    assert "predictions" not in rows[1]
    assert f"videogn: error: {missing}" in err
    assert "1 of 3 videos failed" in err
    assert "Traceback" not in err
    code, out, err = command(missing)
    assert (code, out) == (1, [])
    assert missing in err


def test_the_protocol(command, checkpoint, tiny_data):
    """An option beats the preset, and the preset the checkpoint, whose protocol has two clips."""
    video = str(next((tiny_data / "val" / "left").iterdir()))
    model = videogn.load(checkpoint)

    def probabilities(*options):
        code, out, _ = command(video, "--format", "json", "--topk", "8", *options)
        assert code == 0
        return {p["label"]: p["probability"] for p in json.loads(out[0])["predictions"]}

    def expected(num_clips):
        found = videogn.predict_video(model, video, num_clips=num_clips, topk=8)
        return pytest.approx({p.label: p.probability for p in found}, rel=1e-3, abs=1e-6)

    assert probabilities() == expected(2)
    assert probabilities("--num-clips", "3") == expected(3)
    model.clip = model.clip.with_protocol(short_side=256, crop="three")
    assert probabilities("--protocol", "30view", "--num-clips", "1") == expected(1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--list", "no path"]),
        (["FOLDER"], ["FOLDER", "expected videos (.mp4", "found none"]),
        (["--list", "missing.txt"], ["--list: missing.txt", "No such file"]),
        (["VIDEO", "--topk", "0"], ["--topk", "at least 1", "0"]),
        (["VIDEO", "--workers", "-1"], ["--workers", "at least 1"]),
        (["VIDEO", "--timeout", "0"], ["--timeout", "more than 0"]),
        (["VIDEO", "--num-clips", "0"], ["--num-clips", "at least 1"]),
        (["VIDEO", "--backend", "opencv"], ["backend", "pyav", "opencv"]),
        (["VIDEO", "--device", "gpu"], ["--device", "cpu", "gpu"]),
        (["VIDEO", "--every", "1"], ["--every goes with --timeline"]),
        (["VIDEO", "--output", "x"], ["--output goes with --timeline"]),
        (["VIDEO", "--timeline", "--num-clips", "2"], ["--num-clips", "--timeline"]),
        (["VIDEO", "--timeline", "--every", "0"], ["--every", "more than 0"]),
        (["VIDEO", "--timeline", "--format", "json"], ["--format", "--timeline"]),
    ],
)
def test_wrong_usage(command, tmp_path, monkeypatch, videos, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    code, out, err = command(*[videos[0] if word == "VIDEO" else word for word in arguments])
    assert (code, out) == (2, [])
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def test_help_and_parser_without_torch_and_matplotlib():
    code = "from videogn.cli import _parser; _parser().format_help()"
    check = "import sys; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True)


def process(checkpoint, *arguments, **more):
    words = [sys.executable, "-m", "videogn", "classify", *arguments, "--checkpoint", str(checkpoint)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **more)


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are text")
def test_standard_input_and_names_that_are_not_utf8(checkpoint, videos, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff caf\xc3\xa9.mp4"
    with open(name, "wb") as file:
        file.write(Path(videos[0]).read_bytes())
    done = process(checkpoint, "--list", "-", "--format", "json", stdin=subprocess.PIPE)
    out, err = done.communicate(name + b"\n" + os.fsencode(videos[1]) + b"\n" + name + b".mp4\n", timeout=120)
    lines = out.splitlines()
    assert done.returncode == 1, err
    assert len(lines) == 3
    assert os.fsencode(json.loads(lines[0].decode())["video"]) == name  # JSON that any parser takes
    assert b'"error"' in lines[2]


@pytest.mark.slow
@forks
def test_a_pipe_that_closes_and_ctrl_c(checkpoint, videos, tmp_path):
    """Both end the command quietly and at once, with its children."""
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(f"{Path(videos[0]).parent}{'/.' * i}/0.mp4" for i in range(1000)))
    running = process(checkpoint, "--list", str(listed), "--num-clips", "10")
    running.stdout.readline()
    readers = children(running.pid) if sys.platform == "linux" else []
    running.stdout.close()
    assert running.wait(timeout=120) == 141
    noise = running.stderr.read().decode()
    assert "Traceback" not in noise
    assert "BrokenPipe" not in noise
    assert not [pid for pid in readers if os.path.exists(f"/proc/{pid}")]
    running = process(checkpoint, "--list", str(listed), "--num-clips", "10")
    running.stdout.readline()
    begun = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert time.monotonic() - begun < 5
    assert err.decode().splitlines()[-1] == "videogn: interrupted"
    assert "Traceback" not in err.decode()


def test_format_of_predictions():
    """The command's own format is what scripts/predict_clip.py prints."""
    from videogn.classify_cli import format_predictions
    from videogn.inference import Prediction

    predictions = [Prediction("a", 0, 0.75), Prediction("long name", 1, 0.25)]
    assert format_predictions("x.mp4", predictions, "table").splitlines() == [
        "x.mp4",
        "  1  a           75.00%",
        "  2  long name   25.00%",
    ]
    assert json.loads(format_predictions("x.mp4", predictions, "json"))["predictions"][1]["label"] == "long name"
