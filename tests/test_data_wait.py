"""The share of training's time spent waiting for data, against data and steps whose times are known.

The times are those of a clock that only they advance, so that a busy machine changes nothing.
"""

import time
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset

from videogn.callbacks import DataWait, data_wait
from videogn.data import loader as loader_module
from videogn.data.loader import TimedLoader


class Clock:
    """Time that passes when somebody sleeps."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Data(Dataset):
    """Items that take a known time."""

    clock = time

    def __init__(self, length: int, seconds: float) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        self.clock.sleep(self.seconds)
        return torch.ones(1)


class Model(LightningModule):
    """Steps that take a known time, and validation and checkpoints that take a long one."""

    clock = time

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.clock.sleep(self.seconds)
        return (self.weight * batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.clock.sleep(0.2)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.clock.sleep(0.1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for owner, name in ((loader_module, "time"), (data_wait, "time"), (Data, "clock"), (Model, "clock")):
        monkeypatch.setattr(owner, name, clock)
    return clock


class Shares(Callback):
    """The last value that was logged, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_end(self, trainer, *_) -> None:
        self._take(trainer)

    def on_train_end(self, trainer, *_) -> None:
        self._take(trainer)

    def _take(self, trainer) -> None:
        share = trainer.callback_metrics.get("train/data_wait")
        if share is not None:
            self.seen[trainer.global_step] = float(share)


def fit(loader, tmp_path, seconds: float, validation=None, **options):
    """Shares that were logged, and the warnings about them."""
    shares = Shares()
    defaults = {"max_epochs": 1, "log_every_n_steps": 10, "enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[DataWait(), shares],
        **{"logger": False, **defaults, **options},
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Model(seconds), loader, validation)
    return shares.seen, [str(w.message) for w in caught if "waited for data" in str(w.message)]


def test_reading_in_the_main_process_is_waiting(tmp_path, monkeypatch, clock):
    monkeypatch.setattr("videogn.callbacks.data_wait.available_cores", lambda: 4)
    shares, told = fit(TimedLoader(Data(41, 0.02), batch_size=1), tmp_path, 0.06)
    assert shares == {step: pytest.approx(0.25) for step in range(10, 42)}
    assert len(told) == 1
    assert "training waited for data 25% of the time" in told[0]
    assert "data.num_workers 0" in told[0]
    assert "set it to 3" in told[0]


@pytest.mark.parametrize(("workers", "cores", "words"), [(1, 8, "from 1 to 7"), (1, 2, "videogn data resize")])
def test_advice(workers, cores, words):
    found = data_wait._Time()
    for _ in range(20):
        found.add(total=0.1, waited=0.02)
    text = data_wait._advice(found, workers, cores)
    assert "20% of the time (20 steps" in text
    assert words in text


def test_a_loader_that_keeps_up(tmp_path, clock):
    shares, told = fit(TimedLoader(Data(31, 0.0), batch_size=1), tmp_path, 0.06)
    assert set(shares.values()) == {0.0}
    assert told == []


def test_below_the_limit_nothing_is_said(tmp_path, clock):
    shares, told = fit(TimedLoader(Data(41, 0.009), batch_size=1), tmp_path, 0.09)
    assert shares[40] == pytest.approx(1 / 11)
    assert told == []


def test_validation_and_checkpoints_are_no_training_time(tmp_path, clock):
    options = {"enable_checkpointing": True, "val_check_interval": 7, "log_every_n_steps": 10}
    loader, validation = TimedLoader(Data(21, 0.03), batch_size=1), DataLoader(Data(1, 0.1))
    shares = Shares()
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        num_sanity_val_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[DataWait(), shares, ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)],
        **options,
    )
    trainer.fit(Model(0.03), loader, validation)
    assert shares.seen[20] == pytest.approx(0.5)
    assert clock.now > 21 * 0.06 + 0.2  # validation took its time


def test_an_epoch_without_a_value_ends_with_one(tmp_path, clock):
    loader = TimedLoader(Data(6, 0.02), batch_size=1)
    logger = CSVLogger(tmp_path, name=None)
    _, told = fit(loader, tmp_path, 0.02, log_every_n_steps=50, max_epochs=2, logger=logger)
    logger.save()
    text = (tmp_path / "version_0" / "metrics.csv").read_text().splitlines()
    column = text[0].split(",").index("train/data_wait")
    values = [float(line.split(",")[column]) for line in text[1:] if line.split(",")[column]]
    assert values == [pytest.approx(0.5)] * 2
    assert len(told) == 1


def test_accumulated_gradients(tmp_path, clock):
    loader = TimedLoader(Data(41, 0.01), batch_size=1)
    shares, _ = fit(loader, tmp_path, 0.01, accumulate_grad_batches=4, log_every_n_steps=5)
    assert shares[10] == pytest.approx(0.5)


def test_resumed_runs_count_anew(tmp_path, clock):
    loader = TimedLoader(Data(12, 0.01), batch_size=1)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=1, logger=False)
    trainer.fit(Model(0.01), loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    options = {"callbacks": [DataWait(), shares := Shares()], "log_every_n_steps": 5, "logger": False}
    again = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=2, **options)
    again.fit(Model(0.01), loader, ckpt_path=tmp_path / "a.ckpt")
    assert shares.seen[20] == pytest.approx(0.5)


def test_a_run_that_goes_on_within_an_epoch(tmp_path, clock):
    """Lightning then begins without the start of an epoch. The rest of the epoch ends with a value of its own."""
    loader = TimedLoader(Data(12, 0.01), batch_size=1)
    points = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "log_every_n_steps": 50}
    Trainer(default_root_dir=tmp_path, callbacks=[points], **options).fit(Model(0.01), loader)
    again = Trainer(default_root_dir=tmp_path, callbacks=[DataWait(), shares := Shares()], **options)
    again.fit(Model(0.01), TimedLoader(Data(12, 0.01), batch_size=1), ckpt_path=tmp_path / "step=16.ckpt")
    assert shares.seen == {24: pytest.approx(0.5)}


class Endless:
    def __iter__(self):
        while True:
            yield torch.ones(1)


@pytest.mark.parametrize("loader", [Endless(), DataLoader(Data(30, 0))], ids=["iterable", "DataLoader"])
def test_other_loaders_are_not_measured(tmp_path, loader):
    assert fit(loader, tmp_path, 0.0, limit_train_batches=30) == ({}, [])


def test_a_run_of_one_step(tmp_path):
    assert fit(TimedLoader(Data(6, 0.01), batch_size=1), tmp_path, 0.0, fast_dev_run=True) == ({}, [])


def test_logging_switched_off(tmp_path):
    assert fit(TimedLoader(Data(4, 0.0), batch_size=1), tmp_path, 0.01, log_every_n_steps=0)[1] == []


# --- the loader's own count, in real time


@pytest.mark.parametrize("workers", [0, 1])
def test_waiting_is_added_up(workers):
    batches = TimedLoader(Data(6, 0.05), batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    for epoch in (1, 2):
        assert [len(batch) for batch in batches] == [2, 2, 2]
        assert batches.waited >= 0.3 * epoch


def test_no_waiting_for_what_is_ready():
    batches = TimedLoader(Data(6, 0.25), batch_size=2, num_workers=2)
    iterator = iter(batches)
    next(iterator)
    time.sleep(1.5)
    before = batches.waited
    assert len(list(iterator)) == 2
    assert batches.waited - before < 0.4  # one batch takes 0.5
