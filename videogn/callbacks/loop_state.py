"""Lightning's counters of a run, in a form from which it goes on exactly.

Lightning stores its counters as they are at the moment of saving and guesses, when it loads them, which hook that was.
Several of these guesses repeat or leave out a step of its bookkeeping. Here the stored counters are brought into one of
two forms whose way through the loops of Lightning 2.6 is known: *some batches of an epoch are done, and logged*, and *a
validation has to be run*. They are plain dictionaries, those of ``fit_loop.state_dict()``.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"


def settle(fit: dict[str, Any], num_batches: int, validation: bool) -> int:
    """Rewrites the counters that a checkpoint is about to hold, in place.

    Args:
        fit: ``checkpoint["loops"]["fit_loop"]``.
        num_batches: of an epoch.
        validation: the run is at the beginning of a validation, which is to be run as a whole when it goes on.

    Returns:
        How many batches of the running epoch are done.
    """
    epochs, batches, of_validation = fit["epoch_progress"], fit[_BATCHES], fit[_VALIDATION]
    begun = batches["current"]["ready"] > batches["current"]["processed"]
    epoch_over = epochs["current"]["processed"] == epochs["current"]["ready"]
    done = batches["current"]["processed"]
    total = batches["total"]["processed"]
    _set(of_validation["total"], 0)
    _set(of_validation["current"], 0)
    if validation:
        # All equal is "after a batch"; with a validation that was begun, Lightning goes back to run it.
        of_validation["total"] |= {"ready": 1, "started": 1}
        _set(batches["total"], total)
        _set(batches["current"], done)
    else:
        if epoch_over or done >= num_batches:
            _set(epochs["total"], epochs["total"]["ready"])
            _set(epochs["current"], epochs["current"]["ready"])
            done = 0
        # One batch made ready and not begun is, to Lightning, a stop between two batches.
        _set(batches["total"], total)
        batches["total"]["ready"] = total + 1
        _set(batches["current"], done)
        batches["is_last_batch"] = False
        if not (begun or epoch_over):  # Lightning counts a step as logged after the validation that follows it
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    fit["state_dict"]["combined_loader"] = [{"batches": done}]
    return done


def finish_restart(trainer: Trainer, batches: int) -> None:
    """Takes back, when Lightning has read them, what :func:`settle` wrote for Lightning to read. In on_train_start.

    Args:
        trainer: that goes on.
        batches: of the running epoch that are done. Lightning tells the loader, but not where the length of the run was
            asked for before it read the checkpoint, as schedules of the learning rate do.
    """
    trainer.train_dataloader.load_state_dict({"batches": batches})  # type: ignore[union-attr]
    assert trainer.fit_loop._data_fetcher is not None
    iter(trainer.fit_loop._data_fetcher)
    loop = trainer.fit_loop.epoch_loop
    counts_again = loop.restarting and not loop._should_accumulate()
    if counts_again and (loop.restarted_on_train_batch_end or not loop.restarted_on_last):
        loop._batches_that_stepped -= 1  # which Lightning is going to add: it has been counted
    for progress in (loop.batch_progress.total, loop.val_loop.batch_progress.total):
        progress.ready = progress.completed
        progress.started = progress.processed = progress.completed  # type: ignore[attr-defined]


def _set(counts: dict[str, int], value: int) -> None:
    for name in counts:
        counts[name] = value
