"""KineticsDataModule: alone, under a trainer, and from the command line's parser."""

import shutil
from pathlib import Path

import jsonargparse
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from videogn.data import ClipBatch, DemoSpec, KineticsDataModule, VideoBatch
from videogn.data.datamodule import available_cores
from videogn.data.dataset import EvalVideos
from videogn.data.decode import Limits
from videogn.data.demo import MOTIONS, generate_demo
from videogn.data.manifest import FileRecord, ManifestWriter, manifest_path
from videogn.data.samplers import EvalSampler, TrainSampler
from videogn.errors import UsageError
from videogn.spec import ClipSpec, Protocol

CLIP = ClipSpec(frames=4, stride=1, train_short_side=(24, 28), train_crop=20, protocol=Protocol(short_side=24, clips=2))
DEMO = DemoSpec(3, 1, 32, 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return Path(generate_demo(tmp_path_factory.mktemp("demo"), DEMO))


def make(root: Path, **options) -> KineticsDataModule:
    return KineticsDataModule(str(root), **{"clip": CLIP, "batch_size": 4, "num_workers": 0, **options})


def test_without_a_trainer(tmp_path):
    data = make(tmp_path / "demo", demo=DEMO)
    assert data.class_names is None
    data.prepare_data()
    data.setup()
    assert data.class_names == tuple(MOTIONS) == tuple(sorted(MOTIONS))
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, ClipBatch)
    assert batch.clips.shape == (4, 3, 4, 20, 20)
    assert len(data.train_dataloader()) == 6
    videos = list(data.val_dataloader())
    assert all(isinstance(video, VideoBatch) and len(video) == 1 for video in videos)
    assert [video.videos[0].label for video in videos] == list(range(8))
    assert videos[0].videos[0].index.shape == (2, 4)


def test_setup_reads_what_a_stage_needs(root):
    data = make(root)
    data.setup("validate")
    assert set(data._indices) == {"val"}
    before = data.index("val")
    data.setup("fit")
    assert data.index("val") is before
    assert len(data.index("train")) == 24


def test_test_and_predict_fall_back_to_validation(root, tmp_path):
    data = make(root)
    data.setup("test")
    data.setup("predict")
    assert data.index("test").video_id(0).startswith("val/")
    assert data.index("predict").video_id(0).startswith("val/")
    shutil.copytree(root, tmp_path / "copy")
    shutil.copytree(root / "val" / "up", tmp_path / "copy" / "testing" / "up")
    data = make(tmp_path / "copy")
    data.setup("test")
    assert [data.index("test").video_id(i) for i in range(len(data.index("test")))] == ["testing/up/0000.mp4"]
    assert data.index("test").label(0) == list(MOTIONS).index("up")


def test_predict_without_labels(root, tmp_path):
    for i, path in enumerate(sorted(root.glob("val/*/*.mp4"))):
        (tmp_path / "test").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "test" / f"{i}.mp4")
    data = make(tmp_path)
    data.setup("predict")
    assert data.class_names is None
    assert [video.videos[0].label for video in data.predict_dataloader()] == [-1] * 8
    (tmp_path / "list.txt").write_text("test/3.mp4\ntest/1.mp4\n")
    data = make(tmp_path, test_list=str(tmp_path / "list.txt"))
    data.setup("predict")
    assert [video.videos[0].path for video in data.predict_dataloader()] == [
        str(tmp_path / f"test/{i}.mp4") for i in (3, 1)
    ]


def test_class_names_option_orders_the_labels(root, tmp_path):
    names = sorted(MOTIONS, reverse=True)
    (tmp_path / "names.txt").write_text("\n".join(names))
    data = make(root, class_names=str(tmp_path / "names.txt"))
    data.setup("validate")
    assert data.class_names == tuple(names)
    assert data.index("val").labels.tolist() == list(range(8))[::-1]


def test_validation_alone_needs_the_order_of_classes(root, tmp_path):
    shutil.copytree(root / "val", tmp_path / "val")
    with pytest.raises(UsageError, match=r"expected a training split.*data\.class_names"):
        make(tmp_path).setup("validate")


def test_messages(root, tmp_path):
    with pytest.raises(UsageError, match=r"data\.root: expected a folder, found nothing at"):
        make(tmp_path / "nowhere").setup("fit")
    with pytest.raises(UsageError, match=r"no train split\. Expected a folder train/.*Found an empty folder"):
        make(tmp_path).setup("fit")
    with pytest.raises(UsageError, match=r"data\.batch_size: expected at least 1, found 0"):
        make(root, batch_size=0)
    with pytest.raises(UsageError, match=r"data\.decode_timeout: expected more than 0 seconds, or null, found 0"):
        make(root, decode_timeout=0)
    data = make(root, batch_size=25)
    data.setup()
    with pytest.raises(UsageError, match=r"data\.batch_size: expected at most 24 clips per step.*found 25"):
        data.train_dataloader()
    with pytest.raises(UsageError, match="backend"):
        make(root, backend="ffmpeg").setup()


def test_summary_is_reported(root, capsys, caplog):
    with caplog.at_level("INFO"):
        make(root).setup("fit")
    text = caplog.text + capsys.readouterr().err
    assert "train: 24 videos of 8 classes" in text
    assert "val: 8 videos of 8 classes" in text


def test_workers(root, monkeypatch):
    assert make(root, num_workers=None)._default_workers() == max(1, min(16, available_cores() - 1))
    monkeypatch.setattr("videogn.data.datamodule.available_cores", lambda: 64)
    assert make(root)._default_workers() == 16
    data = make(root, num_workers=1)
    data.setup()
    loader = data.train_dataloader()
    assert loader.persistent_workers
    assert len(list(loader)) == 6


def test_command_line(root):
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(KineticsDataModule, "data")
    arguments = ["--data.root", str(root), "--data.clip.frames", "64", "--data.demo.train_per_class", "10"]
    arguments += ["--data.limits.max_frames", "500", "--data.decode_timeout", "null"]
    config = parser.parse_args([*arguments, "--data.clip.train_short_side", "[256, 256]", "--data.val_list", "v.txt"])
    data = parser.instantiate(config).data
    assert data.clip == ClipSpec(frames=64, train_short_side=(256, 256))
    assert data.demo == DemoSpec(train_per_class=10)
    assert (data.limits, data.decode_timeout) == (Limits(max_frames=500), None)
    assert data.lists["val"] == "v.txt"
    defaults = parser.instantiate(parser.parse_args(["--data.root", "x"])).data
    assert (defaults.clip, defaults.demo, defaults.backend) == (ClipSpec(), None, "pyav")
    from_yaml = parser.parse_string(f"data: {{root: {root}, demo: {{}}, clip: {{stride: 1}}}}")
    assert parser.instantiate(from_yaml).data.demo == DemoSpec()
    text = parser.format_help()
    assert "training clips per process and forward pass" in " ".join(text.split())


def test_decoder_options_reach_the_readers(root):
    data = make(root, num_workers=1, limits=Limits(max_pixels=1000), decode_timeout=7)
    data.setup()
    assert data.train_dataloader().dataset.timeout == 7
    [videos] = {video.videos[0].error for video in data.val_dataloader()}
    assert "32x32" in videos
    for options in ({"decode_timeout": None, "num_workers": 1}, {"num_workers": 0}):
        assert isinstance(make(root, **options).val_dataloader().dataset, EvalVideos)


def test_manifest(root, tmp_path):
    """What the manifest calls bad is left out of training, and fails in evaluation without being opened."""
    shutil.copytree(root, tmp_path / "demo")
    here = tmp_path / "demo"
    with ManifestWriter(manifest_path(here)) as manifest:
        for name in ("train/up/0000.mp4", "val/up/0000.mp4"):
            status = (here / name).stat()
            manifest.add(FileRecord(name, status.st_size, status.st_mtime_ns, "bad", reason="told so"))
    data = make(here)
    data.setup()
    assert len(data.index("train")) == 23
    errors = {video.videos[0].path: video.videos[0].error for video in data.val_dataloader()}
    assert len(errors) == 8
    assert {path: error for path, error in errors.items() if error} == {str(here / "val/up/0000.mp4"): "told so"}
    elsewhere = tmp_path / "other.csv"
    shutil.move(manifest_path(here), elsewhere)
    data = make(here, manifest=str(elsewhere))
    data.setup()
    assert len(data.index("train")) == 23
    assert len(make(here).index("train")) == 24
    with pytest.raises(UsageError, match=r"data\.manifest: expected a manifest .* found nothing at .*nowhere\.csv"):
        make(here, manifest=str(tmp_path / "nowhere.csv")).setup()


class Recorder(LightningModule):
    """Remembers which videos it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[list[int]] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        self.trained.append(batch.videos.tolist())
        return self.weight * batch.clips.float().mean()

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self.evaluated += [video.video for video in batch.videos]

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(tmp_path: Path, **options) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_under_a_trainer_every_epoch_has_its_own_order(root, tmp_path, workers):
    data, model = make(root, num_workers=workers, eval_batch_size=3), Recorder()
    trainer(tmp_path, max_epochs=3, check_val_every_n_epoch=3).fit(model, datamodule=data)
    sampler = TrainSampler(24, 4, data.seed)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += [video for _, video in sampler]
    assert [video for step in model.trained for video in step] == expected
    assert model.evaluated == list(range(8))


def test_accumulation_makes_whole_steps(root, tmp_path):
    data, model = make(root), Recorder()
    run = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=5, limit_val_batches=0)
    run.fit(model, datamodule=data)
    assert len(model.trained) == 5
    assert run.global_step == 1


def test_validate_test_and_predict(root, tmp_path):
    for verb in ("validate", "test", "predict"):
        model = Recorder()
        run = trainer(tmp_path)
        getattr(run, verb)(model, datamodule=make(root, num_workers=1))
        assert model.evaluated == list(range(8)), verb


def test_samplers_are_left_alone_by_lightning():
    from torch.utils.data.distributed import DistributedSampler

    assert issubclass(TrainSampler, DistributedSampler)
    assert issubclass(EvalSampler, DistributedSampler)


def test_seed_is_that_of_the_run(root, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert KineticsDataModule(str(root)).seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert KineticsDataModule(str(root)).seed == 7
    assert KineticsDataModule(str(root), seed=3).seed == 3
