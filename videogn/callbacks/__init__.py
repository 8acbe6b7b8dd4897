"""What hooks into a Lightning run."""

from videogn.callbacks.bad_videos import BadVideos
from videogn.callbacks.checkpoint_io import CheckpointFiles, OwnFiles
from videogn.callbacks.data_wait import DataWait
from videogn.callbacks.failures import FailTogether, WatchFirst, end_children
from videogn.callbacks.features import FeaturePercentiles
from videogn.callbacks.non_finite import NonFinite
from videogn.callbacks.predictions import PredictionsWriter
from videogn.callbacks.records import TrainingRecord
from videogn.callbacks.resume import ResumePoints
from videogn.callbacks.run_folder import RunFolder, make_new_folder
from videogn.callbacks.scores import Scores
from videogn.callbacks.signals import StopSignals
from videogn.callbacks.statistics import AverageStatistics, PreciseBN
from videogn.callbacks.summary import RunSummary

__all__ = [
    "AverageStatistics",
    "BadVideos",
    "CheckpointFiles",
    "DataWait",
    "FailTogether",
    "FeaturePercentiles",
    "NonFinite",
    "OwnFiles",
    "PreciseBN",
    "PredictionsWriter",
    "ResumePoints",
    "RunFolder",
    "RunSummary",
    "Scores",
    "StopSignals",
    "TrainingRecord",
    "WatchFirst",
    "end_children",
    "make_new_folder",
]
