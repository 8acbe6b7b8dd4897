"""What hooks into a Lightning run."""

from videogn.callbacks.data_wait import DataWait
from videogn.callbacks.predictions import PredictionsWriter
from videogn.callbacks.scores import Scores
from videogn.callbacks.statistics import AverageStatistics, PreciseBN
from videogn.callbacks.summary import RunSummary

__all__ = ["AverageStatistics", "DataWait", "PreciseBN", "PredictionsWriter", "RunSummary", "Scores"]
