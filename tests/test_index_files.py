"""List files and the CVDF layout of Kinetics."""

from pathlib import Path

import pytest
from test_index import read, records, touch

from videogn.data.classes import kinetics400_names
from videogn.data.layouts import find_source
from videogn.errors import UsageError


def write(root: Path, name: str, *lines: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def videos(tmp_path):
    touch(tmp_path, "v/a.mp4", "v/b c.mp4", "v/d,e 1.MKV", "v/f.mp4 g.webm")
    return tmp_path


NAMES = ("arm wrestling", "eating ice cream", "yoga", "zumba")


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", "  "], ids=["space", "tab", "comma", "comma-space", "two"])
@pytest.mark.parametrize("labels", [("0", "1", "2", "3"), NAMES], ids=["integers", "names"])
def test_separators_spaces_and_labels(videos, separator, labels):
    paths = ["v/a.mp4", "v/b c.mp4", "v/d,e 1.MKV", "v/f.mp4 g.webm"]
    write(videos, "train.txt", *(f"{path}{separator}{label}" for path, label in zip(paths, labels, strict=True)))
    assert records(read(videos, names=NAMES)) == list(zip(paths, range(4), strict=True))


def test_blank_lines_comments_header_quotes_and_byte_order_mark(videos):
    write(
        videos, "train.csv", "\ufeffpath,label", "", "# a comment", '"v/d,e 1.MKV","eating ice cream"', "v/a.mp4,yoga  "
    )
    assert records(read(videos, names=NAMES)) == [("v/d,e 1.MKV", 1), ("v/a.mp4", 2)]


def test_windows_line_ends_and_dots(videos):
    (videos / "train.txt").write_bytes(b"./v/a.mp4 1\r\nv//b c.mp4 0\r\n")
    assert records(read(videos)) == [("v/a.mp4", 1), ("v/b c.mp4", 0)]


def test_names_of_the_training_list_are_sorted(videos):
    write(videos, "train.txt", "v/a.mp4 zumba", "v/b c.mp4 arm wrestling")
    write(videos, "val.txt", "v/a.mp4 zumba")
    index = read(videos, "val")
    assert index.class_names == ("arm wrestling", "zumba")
    assert records(index) == [("v/a.mp4", 1)]


def test_integers_without_names_count_up_to_the_largest(videos):
    write(videos, "train.txt", "v/a.mp4 0", "v/b c.mp4 3")
    assert read(videos).class_names == ("0", "1", "2", "3")


def test_path_prefix_and_lists_elsewhere(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    write(folder, "mine.txt", "a.mp4 0", "b c.mp4 1")
    expected = [("v/a.mp4", 0), ("v/b c.mp4", 1)]
    for prefix in ("v", "v/", str(videos / "v")):
        assert records(read(videos, list_file=str(folder / "mine.txt"), path_prefix=prefix)) == expected
    index = read(folder, list_file="mine.txt", path_prefix=str(videos / "v"))
    assert records(index) == [(str(videos / path), label) for path, label in expected]
    assert index.path(1) == str(videos / "v/b c.mp4")


def test_absolute_paths_below_the_root_get_portable_ids(videos):
    write(videos, "train.txt", f"{videos}/v/a.mp4 0", f"{videos}/v/b c.mp4 1")
    index = read(videos)
    assert records(index) == [("v/a.mp4", 0), ("v/b c.mp4", 1)]
    assert index.path(0) == f"{videos}/v/a.mp4"


def test_missing_files_are_counted_and_named(videos):
    write(
        videos, "train.txt", "v/a.mp4 0", *(f"v/gone {i}.mp4 1" for i in range(1200)), "other/x.mp4 0", "v/gone 0.mp4 1"
    )
    index = read(videos)
    assert len(index) == 1
    assert len(index.missing) == 1201
    assert "1,201 listed files are missing: v/gone 0.mp4, v/gone 1.mp4" in index.summary()


def test_all_files_missing_suggests_the_prefix(videos):
    write(videos, "train.txt", "a.mp4 0", "b c.mp4 1")
    with pytest.raises(
        UsageError, match=rf"none of its 2 files exists.*looked for at {videos}/a.mp4.*data.path_prefix"
    ):
        read(videos)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v/a.mp4 4", r"line 2: expected a label in 0\.\.3, found 4\. Do the labels count from 1"),
        ("v/a.mp4 17", r"line 2: expected a label in 0\.\.3, found 17\.$"),
        ("v/a.mp4 -1", r"line 2: expected a label in 0\.\.3, found -1"),
        ("v/a.mp4 yogga", r"line 2: expected one of the 4 class names, found 'yogga'; did you mean 'yoga'"),
        ("v/a.mp4", "line 2: expected a label for every video, found none"),
        ("nonsense", "line 2: expected 'path label'.*found 'nonsense'"),
        ("v/b c.mp4 2", "lines 1 and 2: expected one label per file, found 1 and 2 for v/b c.mp4"),
    ],
)
def test_lines_that_are_wrong(videos, line, message):
    write(videos, "train.txt", "v/b c.mp4 1", line)
    with pytest.raises(UsageError, match=rf"train\.txt, {message}"):
        read(videos, names=NAMES)


def test_repeated_lines_count_once(videos):
    write(videos, "train.txt", "v/a.mp4 0", "./v/a.mp4 0")
    index = read(videos)
    assert records(index) == [("v/a.mp4", 0)]
    assert "1 line lists a file again" in index.summary()


def test_lists_without_labels_are_for_prediction(videos):
    write(videos, "test.txt", "v/b c.mp4", "v/a.mp4 1", "v/d,e 1.MKV -1")
    index = read(videos, "test", names=NAMES, require_labels=False)
    assert records(index) == [("v/b c.mp4", -1), ("v/a.mp4", 1), ("v/d,e 1.MKV", -1)]


def test_integers_beside_names(videos):
    write(videos, "train.txt", "v/a.mp4 0", "v/b c.mp4 yoga")
    with pytest.raises(UsageError, match="all integers or all names, found 0 and 'yoga'"):
        read(videos)
    assert records(read(videos, names=NAMES)) == [("v/a.mp4", 0), ("v/b c.mp4", 2)]


def test_no_such_list_and_empty_list(videos):
    with pytest.raises(UsageError, match=r"data\.val_list: expected a file, found none at"):
        find_source(str(videos), "val", list_file="nowhere.txt")
    write(videos, "train.txt", "# nothing")
    with pytest.raises(UsageError, match="expected lines 'path label', found none"):
        read(videos, names=NAMES)


def test_layout_that_contradicts_the_list(videos):
    write(videos, "train.txt", "v/a.mp4 0")
    with pytest.raises(UsageError, match=r"data\.layout: expected list or auto.*found cvdf"):
        find_source(str(videos), "train", "cvdf", "train.txt")


# --- CVDF

HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
GOOD, BAD, GONE = "abcdefghijk", "-bc_efghijk", "zzzzzzzzzzz"


@pytest.fixture
def cvdf(tmp_path):
    write(
        tmp_path,
        "annotations/train.csv",
        HEADER,
        f'"punching person (boxing)",{GOOD},5,15,train,0',
        f"yoga,{BAD},0,10,train,1",
        f"archery,{GONE},120,130,train,0",
    )
    write(tmp_path, "annotations/val.csv", HEADER, f"yoga,{GOOD},7,17,val,0")
    touch(
        tmp_path, f"train/{GOOD}_000005_000015.mp4", f"train/{BAD}_000000_000010.mp4", f"val/{GOOD}_000007_000017.mp4"
    )
    return tmp_path


def test_cvdf(cvdf):
    index = read(cvdf, "train", names=kinetics400_names())
    names = [index.class_names[label] for _, label in records(index)]
    assert names == ["punching person (boxing)", "yoga"]
    assert index.video_id(0) == f"train/{GOOD}_000005_000015.mp4"
    assert index.missing == (f"train/{GONE}_000120_000130.mp4",)
    assert records(read(cvdf, "val", names=kinetics400_names())) == [(f"val/{GOOD}_000007_000017.mp4", 398)]


def test_cvdf_classes_come_from_all_rows_not_from_the_files_that_exist(cvdf):
    assert read(cvdf).class_names == ("archery", "punching person (boxing)", "yoga")


@pytest.mark.parametrize("parent", ["replacement/replacement_for_corrupted_k400", "replacement_for_corrupted_k400"])
def test_cvdf_replacements_are_matched_on_the_id(cvdf, parent):
    touch(cvdf, f"{parent}/{BAD}_000000_000010.mp4", f"{parent}/{GONE}.mp4", f"{parent}/._{GOOD}.mp4")
    index = read(cvdf)
    assert [index.video_id(i) for i in range(3)] == [
        f"train/{GOOD}_000005_000015.mp4",
        f"{parent}/{BAD}_000000_000010.mp4",
        f"{parent}/{GONE}.mp4",
    ]
    assert index.missing == ()


def test_cvdf_csv_as_a_list_and_sorted_into_folders(cvdf):
    write(cvdf, "mine/t.csv", HEADER, f"yoga,{GOOD},5,15,train,0")
    assert find_source(str(cvdf), "train", list_file="mine/t.csv").kind == "cvdf"
    (cvdf / "train" / "yoga").mkdir()
    (cvdf / f"train/{GOOD}_000005_000015.mp4").rename(cvdf / f"train/yoga/{GOOD}_000005_000015.mp4")
    index = read(cvdf, layout="cvdf")
    assert index.video_id(0) == f"train/yoga/{GOOD}_000005_000015.mp4"


def test_cvdf_without_labels_or_times(cvdf):
    write(cvdf, "annotations/test.csv", "youtube_id,time_start,time_end,split", f"{GOOD},5,15,test")
    touch(cvdf, f"test/{GOOD}_000005_000015.mp4")
    assert records(read(cvdf, "test", require_labels=False))[0][1] == -1
    with pytest.raises(UsageError, match=r"test\.csv, line 2: expected a label"):
        read(cvdf, "test")
    write(cvdf, "annotations/test.csv", HEADER, f"yoga,{GOOD},,15,test,0")
    with pytest.raises(UsageError, match=r"test\.csv, line 2: expected youtube_id, time_start and time_end"):
        read(cvdf, "test")


def test_annotations_of_kinetics_beside_class_folders(cvdf):
    touch(cvdf, "train/yoga/x.mp4")
    assert find_source(str(cvdf), "train").kind == "folders"
    assert find_source(str(cvdf), "train", "cvdf").kind == "cvdf"
