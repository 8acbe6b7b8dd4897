"""``videogn study``: a grid of runs of `videogn fit`, the table and the figures that compare them. Plain files.

The room's files, in the order of a study's way: :mod:`~videogn.study.options` (merging of configurations),
:mod:`~videogn.study.file` (the study's file) and :mod:`~videogn.study.grid` (its cells),
:mod:`~videogn.study.runs` (each cell's runs and folders), :mod:`~videogn.study.dry_run` (what they would take),
:mod:`~videogn.study.runner` (starts and resumes them), :mod:`~videogn.study.outcomes` (reads what they left),
:mod:`~videogn.study.rates` (chooses learning rates), and what is made of it: tables, claims, figures, the page.
"""
