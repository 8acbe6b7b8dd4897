"""Lightning's counters of a run, in a form from which it goes on exactly.

Lightning stores its counters as they are at the moment of saving and guesses, when it loads them, which hook that was.
Several of these guesses repeat or leave out a step of its bookkeeping. Here the stored counters are brought into one of
two forms whose way through the loops of Lightning 2.6 is known: *some batches of an epoch are done, and logged*, and *a
validation has to be run*. They are plain dictionaries, those of ``fit_loop.state_dict()``.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer

from videogn.data.loader import TimedLoader

_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"


def settle(fit: dict[str, Any], accumulate: int, validation: bool) -> int:
    """Rewrites the counters that a checkpoint is about to hold, in place.

    Args:
        fit: ``checkpoint["loops"]["fit_loop"]``.
        accumulate: batches of an optimiser step; of one that is not whole, the batches are to be done again, because
            nobody stores their gradients.
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
        again = 0
        if epoch_over or (batches["is_last_batch"] and not begun):
            _set(epochs["total"], epochs["total"]["ready"])
            _set(epochs["current"], epochs["current"]["ready"])
            done = 0
        else:
            again = done % accumulate
            done, total = done - again, total - again
        # One batch made ready and not begun is, to Lightning, a stop between two batches.
        _set(batches["total"], total)
        batches["total"]["ready"] = total + 1
        _set(batches["current"], done)
        batches["is_last_batch"] = False
        if not (begun or epoch_over or again):  # Lightning counts a step as logged after the validation that follows it
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    for loader in fit["state_dict"].get("combined_loader", ()):
        if loader.keys() == {"batches"}:  # a TimedLoader; others keep their own account
            loader["batches"] = done
    return done


def finish_restart(trainer: Trainer, batches: int, validation: bool) -> bool:
    """Takes back, when Lightning has read them, what :func:`settle` wrote for Lightning to read. In on_train_start.

    Args:
        trainer: that goes on.
        batches: of the running epoch that are done. Lightning tells the loader, but not where the length of the run was
            asked for before it read the checkpoint, as schedules of the learning rate do.
        validation: a validation has to be run first.

    Returns:
        Whether the validation is left out, because this run has none here: its options are others. The caller sets
        ``val_loop._has_run``, which then says that there was one, to False at the end of the epoch.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    if isinstance(trainer.train_dataloader, TimedLoader):
        trainer.train_dataloader.load_state_dict({"batches": batches})
        iter(fetcher)
    loop = trainer.fit_loop.epoch_loop
    counts_again = loop.restarting and not loop._should_accumulate()
    if counts_again and (loop.restarted_on_train_batch_end or not loop.restarted_on_last):
        loop._batches_that_stepped -= 1  # which Lightning is going to add: it has been counted
    for progress in (loop.batch_progress.total, loop.val_loop.batch_progress.total):
        progress.ready = progress.completed
        progress.started = progress.processed = progress.completed  # type: ignore[attr-defined]
    if validation:
        trainer._last_val_time = -math.inf  # type: ignore[attr-defined]  # where the clock decides, it is time for one
    if not validation or loop._should_check_val_fx(fetcher):
        return False
    loop.val_loop._has_run = True  # or Lightning would train on, into the next epoch, to come to it
    loop._batches_that_stepped += 1  # as Lightning does after a validation
    return True


def _set(counts: dict[str, int], value: int) -> None:
    for name in counts:
        counts[name] = value
