"""The split files of UCF101 and HMDB51, as they come, against torchvision's selection and published counts."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchvision
from folds import ODD, hmdb51, read, ucf101
from test_index import records, touch
from test_index_files import write

from videogn.cli import main
from videogn.data.check import read_splits
from videogn.data.datamodule import KineticsDataModule
from videogn.data.layouts import find_source
from videogn.data.lists import copy_lists, target_names
from videogn.errors import UsageError
from videogn.spec import ClipSpec

# Videos per class of one fold whose sums are the published ones of split 1: (classes, training, test).
UCF101 = [(43, 94, 38), (57, 95, 37), (1, 80, 40)]
HMDB51 = [(51, 70, 30)]


# --- as published


@pytest.fixture(scope="module")
def full_ucf101(tmp_path_factory):
    """101 classes and 13,320 videos, of which split 1 trains on 9,537 and tests on 3,783."""
    root = tmp_path_factory.mktemp("ucf101")
    counts = [(train, test) for classes, train, test in UCF101 for _ in range(classes)]
    names = [f"Class{chr(65 + i % 26)}{i:03d}" for i in range(101)]
    folder = root / "ucfTrainTestlist"
    train_lines, test_lines = [], []
    for i, (name, (train, test)) in enumerate(zip(names, counts, strict=True), 1):
        files = [f"{name}/v_{name}_g{j // 7:02d}_c{j % 7:02d}.avi" for j in range(train + test)]
        (root / "UCF-101" / name).mkdir(parents=True)
        for file in files:
            (root / "UCF-101" / file).touch()
        test_lines += files[:test]
        train_lines += [f"{file} {i}" for file in files[test:]]
    write(root, f"{folder.name}/classInd.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    write(root, f"{folder.name}/trainlist01.txt", *train_lines)
    write(root, f"{folder.name}/testlist01.txt", *test_lines)
    return root


@pytest.fixture(scope="module")
def full_hmdb51(tmp_path_factory):
    """51 classes of 70 training and 30 test videos, and 1,666 that the fold does not use."""
    root = tmp_path_factory.mktemp("hmdb51")
    for i in range(51):
        name = f"class_{i:02d}"
        (root / "hmdb51_org" / name).mkdir(parents=True)
        tags = [1] * 70 + [2] * 30 + [0] * (32 if i else 66)
        files = [f"#{j}_{name}_(a;b)&c!_{j}.avi" for j in range(len(tags))]
        for file in files:
            (root / "hmdb51_org" / name / file).touch()
        lines = (f"{file} {tag} " for file, tag in zip(files, tags, strict=True))
        write(root, f"testTrainMulti_7030_splits/{name}_test_split1.txt", *lines)
    return root


def torchvision_fold(dataset: type, videos: Path, lists: Path, train: bool) -> dict[str, int]:
    """Path -> label as torchvision's dataset class selects and numbers them (sorted class folders)."""
    classes, numbers = torchvision.datasets.folder.find_classes(str(videos))
    samples = torchvision.datasets.folder.make_dataset(str(videos), numbers, ("avi",))
    me = SimpleNamespace(root=str(videos), TRAIN_TAG=1, TEST_TAG=2)
    chosen = dataset._select_fold(me, [path for path, _ in samples], str(lists), 1, train)
    assert len(classes) in (51, 101)
    return {samples[i][0]: classes[samples[i][1]] for i in chosen}


@pytest.mark.parametrize(
    ("name", "videos", "lists", "classes", "counts"),
    [
        ("UCF101", "UCF-101", "ucfTrainTestlist", 101, (9537, 3783)),
        ("HMDB51", "hmdb51_org", "testTrainMulti_7030_splits", 51, (3570, 1530)),
    ],
)
def test_published_counts_and_torchvisions_selection(name, videos, lists, classes, counts, request):
    root = request.getfixturevalue(f"full_{name.lower()}")
    for split, count in zip(("train", "val"), counts, strict=True):
        index = read(root, split)
        expected = torchvision_fold(getattr(torchvision.datasets, name), root / videos, root / lists, split == "train")
        assert len(index) == len(expected) == count
        assert {index.path(i): index.class_names[index.label(i)] for i in range(len(index))} == expected
        assert f"{count:,} videos of {classes} classes ({name} fold 1," in index.summary()
        assert (index.missing, index.empty_classes) == ((), [])
        assert "in no list" not in index.summary()  # those with tag 0 are listed


# --- where the files are


@pytest.mark.parametrize("layout", ["auto", "ucf101"])
@pytest.mark.parametrize(
    ("videos", "lists"),
    [
        ("UCF-101", "ucfTrainTestlist"),
        ("UCF-101", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"),
        ("videos", "annotations"),
        ("", ""),
    ],
)
def test_ucf101(tmp_path, layout, videos, lists):
    root = ucf101(tmp_path, videos, lists)
    below = f"{videos}/" if videos else ""
    train, val = (read(root, split, layout=layout) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("Archery", "BabyCrawling", "ApplyLipstick")
    names = [(f"{below}{name}/v_{name}_g{{}}_c01.avi", label) for label, name in enumerate(train.class_names)]
    assert records(train) == [(path.format("01"), label) for path, label in names]
    assert records(val) == [(path.format("02"), label) for path, label in names]
    assert records(read(root, "train", fold=3)) == records(val)
    assert find_source(str(root), "test", layout) is None


@pytest.mark.parametrize("layout", ["auto", "hmdb51"])
@pytest.mark.parametrize("deeper", [False, True])
@pytest.mark.parametrize(
    ("videos", "lists"),
    [
        ("", "testTrainMulti_7030_splits"),
        ("hmdb51_org", "test_train_splits/testTrainMulti_7030_splits"),
        ("videos", "annotations"),
        ("", ""),
    ],
)
def test_hmdb51(tmp_path, layout, videos, lists, deeper):
    root = hmdb51(tmp_path, videos, lists, deeper)
    below = f"{videos}/" if videos else ""
    folders = [f"{below}{name}/{name}/" if deeper else f"{below}{name}/" for name in ("brush_hair", "wave")]
    expected = {
        ("train", 1): [(f"{folder}{ODD}.avi", label) for label, folder in enumerate(folders)],
        ("val", 1): [(f"{folders[0]}brush_hair_b.avi", 0), (f"{folders[1]}wave_b.avi", 1)],
        ("train", 3): [(f"{folders[0]}brush_hair_b.avi", 0), (f"{folders[1]}wave_b.avi", 1)],
    }
    for (split, fold), videos_of in expected.items():
        index = read(root, split, layout=layout, fold=fold)
        assert index.class_names == ("brush_hair", "wave")
        assert records(index) == videos_of


def test_path_prefix_names_the_folder_of_the_class_folders(tmp_path):
    root = ucf101(tmp_path / "root", "archive/UCF-101")
    assert records(read(root, path_prefix="archive/UCF-101"))[0][0] == "archive/UCF-101/Archery/v_Archery_g01_c01.avi"
    elsewhere = tmp_path / "elsewhere"
    shutil.move(root / "archive/UCF-101", elsewhere)
    assert read(root, path_prefix=str(elsewhere)).path(0) == str(elsewhere / "Archery/v_Archery_g01_c01.avi")
    with pytest.raises(UsageError, match=r"data\.path_prefix: expected a folder with one folder per class, found noth"):
        read(root, path_prefix="archive/UCF")
    with pytest.raises(UsageError, match=r"none of its 3 files exists.*data\.path_prefix"):
        read(root)


def test_class_folders_of_another_case(tmp_path):
    root = ucf101(tmp_path)
    (root / "UCF-101/BabyCrawling").rename(root / "UCF-101/Babycrawling")
    index = read(root)
    assert records(index)[1] == ("UCF-101/Babycrawling/v_BabyCrawling_g01_c01.avi", 1)
    assert not index.missing


def test_a_converted_file_beside_the_listed_one(tmp_path):
    root = ucf101(tmp_path)
    touch(root, "UCF-101/Archery/v_Archery_g01_c01.mp4")
    index = read(root)
    assert records(index)[0] == ("UCF-101/Archery/v_Archery_g01_c01.avi", 0)
    assert len(index) == 3
    (root / "UCF-101/Archery/v_Archery_g01_c01.avi").unlink()
    assert records(read(root))[0] == ("UCF-101/Archery/v_Archery_g01_c01.mp4", 0)


def test_smaller_copies_keep_their_splits(tmp_path):
    """`videogn data resize` makes every video an mp4, and copies the lists."""
    for make, base in ((ucf101, ""), (hmdb51, "hmdb51_org")):
        root, target = make(tmp_path / make.__name__, *([base] if base else [])), tmp_path / f"{make.__name__}_small"
        names = target_names(str(root))
        touch(target, *names.values())
        copy_lists(str(root), str(target), names)
        for split in ("train", "val"):
            large, small = read(root, split), read(target, split)
            assert records(small) == [(path.replace(".avi", ".mp4"), label) for path, label in records(large)]


# --- through the commands


def test_datamodule_tests_on_the_test_list(tmp_path):
    root = ucf101(tmp_path)
    data = KineticsDataModule(str(root), ClipSpec(), layout="ucf101", fold=2, num_workers=0)
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ("Archery", "BabyCrawling", "ApplyLipstick")
    assert records(data.index("test")) == records(data.index("val")) == records(read(root, "val", fold=2))
    with pytest.raises(UsageError, match=r"data\.fold: expected at least 1, found 0"):
        KineticsDataModule(str(root), fold=0)


def test_check_decodes_the_files_of_a_fold(tmp_path, tiny_data, capsys):
    root = ucf101(tmp_path)
    for i, path in enumerate(sorted(root.glob("UCF-101/*/*.avi"))):
        shutil.copy(sorted(tiny_data.glob("*/*/*.mp4"))[i], path)
    assert main(["data", "check", str(root), "--fold", "2", "--workers", "1"]) == 0
    output = capsys.readouterr().out
    assert f"train: 3 videos of 3 classes (UCF101 fold 2, {root}/ucfTrainTestlist)" in output
    assert "all 6 videos are good" in output
    (root / "UCF-101/Archery/v_Archery_g01_c01.avi").unlink()
    assert main(["data", "check", str(root), "--layout", "ucf101", "--workers", "1"]) == 1
    assert "1 listed file is missing: UCF-101/Archery/v_Archery_g01_c01.avi" in capsys.readouterr().out
    assert main(["data", "check", str(root), "--fold", "4"]) == 2
    assert "data.fold: expected a fold whose split files are in" in capsys.readouterr().err


def test_missing_and_unlisted_files_are_counted_and_named(tmp_path):
    root = ucf101(tmp_path / "u")
    (root / "UCF-101/Archery/v_Archery_g02_c01.avi").unlink()
    touch(root / "UCF-101", "Archery/extra.avi", "NoClass/a.avi", "Archery/._v_Archery_g01_c01.avi")
    splits = read_splits(str(root))
    assert list(splits) == ["train", "val"]
    assert splits["train"].missing == ()
    assert splits["val"].missing == ("UCF-101/Archery/v_Archery_g02_c01.avi",)
    assert splits["val"].missing_labels == (0,)
    text = "2 videos on the disk are in no list of this fold: UCF-101/Archery/extra.avi, UCF-101/NoClass/a.avi"
    assert text in splits["train"].summary()
    assert "in no list" not in splits["val"].summary()
    root = hmdb51(tmp_path / "h")
    touch(root, "wave/extra.avi", "somewhere else/a.avi")
    assert "1 video on the disk is in no list of this fold: wave/extra.avi" in read(root).summary()
