"""Exact resume from Python, without the command line: with this project's data and with a user's."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from videogn import ClipSpec, Protocol, VideoClassifier
from videogn.callbacks import ResumePoints
from videogn.checkpoint_files import find_last
from videogn.data.datamodule import KineticsDataModule

CLIP = ClipSpec(frames=4, stride=1, train_short_side=(32, 32), train_crop=32, protocol=Protocol(clips=1, short_side=32))


class Own(LightningDataModule):
    """A user's, which says neither what its videos are nor its seed."""

    clip, class_names, batch_size = CLIP, None, 2

    def __init__(self, data):
        super().__init__()
        self.train_dataloader = data.train_dataloader


class Killed(BaseException):
    """The process ends here."""


def fit(root, folder, own, killed=None):
    seed_everything(0)
    data = KineticsDataModule(str(root), CLIP, batch_size=2, num_workers=0)
    model = VideoClassifier(8, variant="8x8", width=8, norm_kwargs={"num_groups": 4})
    points = ResumePoints(every_n_steps=1)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    limits = {"max_epochs": 2, "limit_val_batches": 0, "use_distributed_sampler": False}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=folder, callbacks=[points], **limits, **quiet)
    step = model.training_step

    def training_step(batch, batch_idx):
        if trainer.global_step == killed:
            raise Killed
        return step(batch, batch_idx)

    model.training_step = training_step
    trainer.fit(model, datamodule=Own(data) if own else data, ckpt_path=find_last(folder), weights_only=True)
    return model.state_dict()


@pytest.mark.parametrize("own", [False, True])
def test_an_interrupted_run_ends_with_the_same_weights(own, tiny_data, tmp_path):
    whole = fit(tiny_data, tmp_path / "whole", own)
    with pytest.raises(Killed):
        fit(tiny_data, tmp_path / "killed", own, killed=5)
    found = fit(tiny_data, tmp_path / "killed", own)
    assert [name for name in whole if not torch.equal(whole[name], found[name])] == []
