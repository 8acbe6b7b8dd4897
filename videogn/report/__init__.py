"""``videogn report``: what several runs' evaluations say about them, as numbers and as one HTML page."""
