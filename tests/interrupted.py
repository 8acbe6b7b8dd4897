"""The ``videogn`` command with a log of the videos that its evaluation decodes, and a stop before one of them.

Environment: ``DECODED``, a file to which the number of each video is appended before it is decoded; ``STOP_AT``, the
number of a video at which to wait for a signal.
"""

import os
import sys
import time

from videogn.cli import main
from videogn.data.dataset import EvalVideos

_read = EvalVideos.read


def _logged(self, video, *more):
    with open(os.environ["DECODED"], "a") as file:
        file.write(f"{video}\n")
    if str(video) == os.environ.get("STOP_AT"):
        time.sleep(600)
    return _read(self, video, *more)


if __name__ == "__main__":
    EvalVideos.read = _logged
    sys.exit(main())
