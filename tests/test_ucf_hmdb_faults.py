"""Split files of UCF101 and HMDB51 that are wrong or lack: one message each."""

import shutil

import pytest
from folds import ODD, hmdb51, read, ucf101
from test_index import touch
from test_index_files import write

from videogn.data.datamodule import KineticsDataModule
from videogn.data.layouts import find_source
from videogn.errors import UsageError


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("classInd.txt", "2 B", "3 B", r"classInd\.txt, line 2: expected '2 ClassName', found '3 BabyCrawling'"),
        ("classInd.txt", None, "", r"classInd\.txt: expected lines '1 ClassName', found none"),
        ("classInd.txt", "1 A", "0 A", r"classInd\.txt, line 1: expected '1 ClassName', found '0 Archery'"),
        ("trainlist01.txt", " 2", " 3", r"trainlist01\.txt, line 2: expected 2, the number of BabyCrawling .*found 3"),
        ("trainlist01.txt", " 1", " 0", r"trainlist01\.txt, line 1: expected 1, the number of Archery .*found 0"),
        ("trainlist01.txt", "Archery/", "Archer/", r"line 1: expected the folder of a class in .*found 'Archer'"),
        ("testlist01.txt", "Archery/", "", r"testlist01\.txt, line 1: expected 'Class/video\.avi' or .*found 'v_Arch"),
        ("testlist01.txt", "_g02", "_g01", r"expected no video in both lists, found 3: ApplyLipstick/v_Apply"),
        ("trainlist01.txt", None, "", r"ucfTrainTestlist: expected videos for training in fold 1, found none"),
    ],
)
def test_ucf101_files_that_are_wrong(tmp_path, file, old, new, message):
    root = ucf101(tmp_path)
    path = root / "ucfTrainTestlist" / file
    path.write_text(new if old is None else path.read_text().replace(old, new))
    with pytest.raises(UsageError, match=message):
        read(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 1 ", " 3 ", r"wave_test_split1\.txt, line 1: expected 'video\.avi 1' with 1 for training.*found '#122"),
        (" 1 ", "", r"wave_test_split1\.txt, line 1: expected 'video\.avi 1'"),
        (
            "wave_b",
            ODD,
            r"wave_test_split1\.txt, lines 1 and 2: expected each video once, found #122.* with 1 and with 2",
        ),
    ],
)
def test_hmdb51_files_that_are_wrong(tmp_path, old, new, message):
    root = hmdb51(tmp_path)
    path = root / "testTrainMulti_7030_splits/wave_test_split1.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError, match=message):
        read(root)


def test_files_that_lack(tmp_path):
    root = ucf101(tmp_path / "u")
    lists = root / "ucfTrainTestlist"
    (lists / "testlist01.txt").unlink()
    with pytest.raises(UsageError, match=r"expected testlist01\.txt beside trainlist01\.txt, found none"):
        read(root)
    (lists / "classInd.txt").unlink()
    with pytest.raises(UsageError, match=r"expected classInd\.txt.*UCF101TrainTestSplits-RecognitionTask\.zip"):
        read(root)
    shutil.rmtree(lists)
    for layout in ("auto", "ucf101"):
        data = KineticsDataModule(str(root), layout=layout)
        with pytest.raises(
            UsageError, match=r"no train split\. Expected .*UCF101TrainTestSplits-Recog.*Found UCF-101\."
        ):
            data.setup("fit")
    root = hmdb51(tmp_path / "h")
    lists = root / "testTrainMulti_7030_splits"
    (lists / "wave_test_split1.txt").unlink()
    with pytest.raises(
        UsageError, match=r"expected wave_test_split1\.txt beside the file of fold 2, found none \(1 cl"
    ):
        read(root)
    shutil.rmtree(lists)
    with pytest.raises(UsageError, match=r"_test_split1\.txt files .*test_train_splits\.rar"):
        KineticsDataModule(str(root), layout="hmdb51").setup("fit")


def test_folds(tmp_path):
    root = ucf101(tmp_path / "u")
    with pytest.raises(UsageError, match=r"data\.fold: expected a fold whose split files are in .*, 1, 2, 3; found 4"):
        find_source(str(root), "train", fold=4)
    touch(tmp_path, "train/a/1.mp4")
    with pytest.raises(UsageError, match=r"data\.fold: expected 1, the default, found 2: UCF101 and HMDB51 have folds"):
        find_source(str(tmp_path), "train", fold=2)
    write(root, "train.txt", "UCF-101/Archery/v_Archery_g01_c01.avi 0")
    with pytest.raises(UsageError, match=r"data\.layout: expected list or auto.*found ucf101"):
        find_source(str(root), "train", "ucf101", "train.txt")
