"""Class folders of pictures and their loaders, against torchvision's ``ImageFolder`` and transforms."""

import subprocess

import numpy as np
import pytest
import torch
from pictures import texture, write_folders
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from videogn.data.datamodule_images import ImageDataModule
from videogn.data.images import random_resized_crop
from videogn.errors import UsageError
from videogn.spec import ClipSpec, Protocol

SMALL = ClipSpec(
    frames=1, stride=1, train_crop=24, protocol=Protocol(clips=1, short_side=32, crop="center", crop_size=24)
)


@pytest.fixture
def root(tmp_path):
    """Two classes of three pictures in each split."""
    write_folders(tmp_path, ("b", "a"), per_class=3)
    return tmp_path


def module(root, **options):
    data = ImageDataModule(str(root), SMALL, **{"num_workers": 0, "batch_size": 2, "seed": 3} | options)
    data.setup("fit")
    return data


def test_evaluation_sees_the_pixels_of_torchvisions_transforms(root):
    """ImageFolder, Resize and CenterCrop, to the last bit; and its classes, order and labels."""
    transform = v2.Compose([v2.PILToTensor(), v2.Resize(32, antialias=True), v2.CenterCrop(24)])
    theirs = ImageFolder(str(root / "val"), transform)
    data = module(root, eval_batch_size=4)
    assert list(data.class_names) == theirs.classes
    batches = list(data.val_dataloader())
    assert [len(batch) for batch in batches] == [4, 2]
    ours = [video for batch in batches for video in batch.videos]
    for video, (pixels, label), (path, _) in zip(ours, theirs, theirs.samples, strict=True):
        assert (video.path, video.label) == (path, label)
        assert video.index.tolist() == [[0]]
        assert video.crops == [(0, 0, 24, 24)]
        assert torch.equal(video.frames[0].permute(2, 0, 1), pixels)


def test_training_batches_are_the_same_whoever_reads_them(root):
    def batches(epoch, **options):
        loader = module(root, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [(batch.clips.clone(), batch.labels.clone(), batch.videos.clone()) for batch in loader]

    alone = batches(1)
    assert [tuple(clips.shape) for clips, _, _ in alone] == [(2, 3, 1, 24, 24)] * 3
    assert all((labels == videos // 3).all() for _, labels, videos in alone)
    for options in ({"num_workers": 2}, {"num_workers": 1, "decode_timeout": 60.0}):
        for ours, theirs in zip(alone, batches(1, **options), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(alone[0][0], batches(2)[0][0])
    assert not torch.equal(alone[0][0], batches(1, seed=4)[0][0])


def test_a_training_view_is_the_crop_of_its_generator(root):
    """Against torchvision's resized_crop and flip of the picture that Pillow decodes."""
    batch = next(iter(module(root, batch_size=6).train_dataloader()))
    paths = [path for path, _ in ImageFolder(str(root / "train")).samples]
    for clip, video in zip(batch.clips, batch.videos.tolist(), strict=True):
        picture = v2.functional.pil_to_tensor(Image.open(paths[video]))
        rng = np.random.default_rng(np.random.SeedSequence((3, 0, video)))
        view = random_resized_crop(*picture.shape[1:], SMALL, rng)
        expected = v2.functional.resized_crop(
            picture, view.top, view.left, view.height, view.width, [24, 24], antialias=True
        )
        assert torch.equal(clip[:, 0], expected.flip(2) if view.flip else expected)


def test_bad_pictures_are_replaced_in_training_and_counted_in_evaluation(root):
    for split in ("train", "val"):
        path = root / split / "a" / "1.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    data = module(root, batch_size=6, eval_batch_size=6)
    (batch,) = data.train_dataloader()
    ((path, reason),) = batch.replaced
    assert path == str(root / "train" / "a" / "1.jpg")
    assert "truncated" in reason
    assert len(batch) == 6
    assert 1 not in batch.videos
    (batch,) = data.val_dataloader()
    assert [video.error is None for video in batch.videos] == [True, False, True, True, True, True]


def test_what_is_no_picture_is_not_listed(root):
    for name in (".hidden.jpg", "._0.jpg", "notes.txt"):
        (root / "train" / "a" / name).write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "a" / "deeper").mkdir()
    Image.fromarray(texture(0)).save(root / "train" / "a" / "deeper" / "x.PNG")
    index = module(root).index("train")
    assert [index.video_id(i) for i in range(4)] == [
        *(f"train/a/{i}.jpg" for i in range(3)),
        "train/a/deeper/x.PNG",
    ]
    assert "7 pictures of 2 classes" in index.summary()


def test_class_folders_must_be_the_classes(root, tmp_path):
    (root / "val" / "a").rename(root / "val" / "c")
    with pytest.raises(UsageError, match=r"2 classes, found 1 others \(c\) and 1 missing \(a\)"):
        module(root).index("val")
    names = tmp_path / "names.txt"
    names.write_text("c\nb\na\nd\n")
    data = module(root, class_names=str(names))
    assert data.class_names == ("c", "b", "a", "d")
    assert data.index("train").labels.tolist() == [2, 2, 2, 1, 1, 1]
    assert data.index("val").labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert "classes without a picture: 2: a, d" in data.index("val").summary()


def test_the_flat_validation_folder_of_ilsvrc_is_refused_with_a_command_that_sorts_it(root):
    """The command of the message, run on a folder as the archive has it, makes it one that is read."""
    rows = ["ImageId,PredictionString"]
    for i, name in enumerate("abab"):
        Image.fromarray(texture(i)).save(root / "val" / f"ILSVRC2012_val_{i:08}.JPEG", "jpeg")
        rows.append(f"ILSVRC2012_val_{i:08},{name} 85 1 499 272 {name} 5 6 7 8")
    for name in "ab":
        for path in (root / "val" / name).iterdir():
            path.unlink()
        (root / "val" / name).rmdir()
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="found 4 pictures without folders") as caught:
        module(root)
    command = str(caught.value).splitlines()[-1]
    subprocess.run(["bash", "-c", command], check=True, cwd=root)
    index = module(root).index("val")
    assert [index.video_id(i)[-6:] for i in range(4)] == ["0.JPEG", "2.JPEG", "1.JPEG", "3.JPEG"]
    assert index.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.parent / "elsewhere"), "data.root: expected a folder, found nothing"),
        (lambda root: (root / "val").rename(root / "x"), r"expected a folder val/ .* found train, x"),
        (lambda root: [p.unlink() for p in (root / "val").rglob("*.jpg")], "found 2 folders without one"),
    ],
)
def test_other_layouts_are_refused_in_words(root, spoil, message):
    spoil(root)
    with pytest.raises(UsageError, match=message):
        module(root)


def test_a_clip_of_pictures_has_one_frame(root):
    with pytest.raises(UsageError, match=r"data\.clip\.protocol\.clips: expected 1, .* found 10"):
        ImageDataModule(str(root), ClipSpec(frames=1))
    with pytest.raises(UsageError, match=r"data\.clip\.frames: expected 1, .* found 8"):
        ImageDataModule(str(root), ClipSpec(frames=8))
