"""``videogn study``: a grid of runs of `videogn fit`, the table and the figures that compare them. Plain files.

The room's files, in the order of a study's way: :mod:`~videogn.study.options` (merging of configurations),
:mod:`~videogn.study.grid` (the study's file, its cells), :mod:`~videogn.study.runs` (each cell's runs and folders),
:mod:`~videogn.study.runner` (starts and resumes them), :mod:`~videogn.study.outcomes` (reads what they left),
:mod:`~videogn.study.rates` (chooses learning rates), and what is made of it: tables, claims, figures, the page.
"""
