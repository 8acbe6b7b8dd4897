"""``python -m videogn`` is the ``videogn`` command."""

import sys

from videogn.cli import main

sys.exit(main())
