"""The report's sections about single videos: the most confident mistakes, and those that gave no frames."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from videogn.data.progress import ProgressBar
from videogn.errors import VideoError
from videogn.report import statistics
from videogn.report.markup import missing, number, percent, plural, table, text
from videogn.report.numbers import Numbers
from videogn.report.overview import named
from videogn.report.runs import Run
from videogn.report.sheets import contact_sheet, data_uri
from videogn.results import VideoResult

MOST_FAILED = 200
"""Failed videos listed per run."""

MOST_REASONS = 10
"""Reasons counted per run."""

Place = tuple[int, int]
"""A run's number, and a position in its results."""


def most_confident_mistakes(numbers: Numbers, most: int) -> list[list[Place]]:
    """The videos whose wrong first class has the highest probability, the runs taking turns; each video once.

    Returns:
        Per video its places in all runs that have decoded it; the first is that of the run whose mistake it is.
    """
    same = _same_videos(numbers)
    queues = []
    for number_of_run, run in enumerate(numbers.runs):
        position = {id(result): i for i, result in enumerate(run.results)}
        wrong = statistics.confident_mistakes(run.results, most)
        queues.append([(number_of_run, position[id(result)]) for result in wrong])
    found: list[list[Place]] = []
    taken: set[Place] = set()
    while any(queues):
        for queue in queues:
            while queue and queue[0] in taken:
                queue.pop(0)
            if queue and len(found) < most:
                place = queue.pop(0)
                places = [place, *(other for other in same.get(place, ()) if other != place)]
                taken.update(places)
                found.append(places)
        if len(found) == most:
            break
    return found


def _same_videos(numbers: Numbers) -> dict[Place, list[Place]]:
    """Of each video in several runs all its places, itself among them."""
    groups: dict[Place, list[Place]] = {}
    for compared in numbers.comparisons:
        for a, b in compared.matching.pairs.tolist():
            group = groups.setdefault((compared.a, a), [(compared.a, a)])
            if (compared.b, b) not in groups:
                group.append((compared.b, b))
                groups[(compared.b, b)] = group
    return groups


def mistakes(numbers: Numbers, most: int, videos_in: Sequence[str] = ()) -> str:
    """The section of the most confident mistakes, with the frames that the network saw of videos in these folders."""
    if most == 0:
        return missing("Not asked for (--sheets 0).")
    chosen = most_confident_mistakes(numbers, most)
    if not chosen:
        return missing("No video with a label was put into a wrong class.")
    figures = []
    with ProgressBar("contact sheets", len(chosen)) as bar:
        for done, places in enumerate(chosen, start=1):
            figures.append(_figure(numbers.runs, places, videos_in))
            bar.update(done)
    turns = "taking turns between the runs, " if len(numbers.runs) > 1 else ""
    introduction = (
        f"<p>The {plural(len(chosen), 'video')} whose wrong first class has the highest probability, {turns}each video "
        "once. One row per clip, with the classes that the network gave it: a few of the frames that the network saw, "
        "cropped and resized as the protocol says, and made smaller for this page.</p>"
    )
    return f'{introduction}<div class="sheets">{"".join(figures)}</div>'


def _figure(runs: Sequence[Run], places: Sequence[Place], videos_in: Sequence[str]) -> str:
    run, result = runs[places[0][0]], runs[places[0][0]].results[places[0][1]]
    verdicts = "".join(f"<li>{_verdict(runs, *place)}</li>" for place in sorted(places))
    return (
        f"<figure><figcaption>true class: <strong>{text(run.class_names[result.label])}</strong>"
        f'<ul class="verdicts">{verdicts}</ul><span class="path">{text(result.path)}</span></figcaption>'
        f"{_sheet(run, result, videos_in)}</figure>"
    )


def _verdict(runs: Sequence[Run], position: int, video: int) -> str:
    run, result = runs[position], runs[position].results[video]
    whose = f"{named(position, run)}: " if len(runs) > 1 else "predicted: "
    first = f"<strong>{text(run.class_names[result.classes[0]])}</strong> {percent(result.probabilities[0])} %"
    if result.label_rank == 0:
        return f"{whose}{first}, right"
    return f"{whose}{first}; true class {percent(result.label_probability)} %"


def _sheet(run: Run, result: VideoResult, videos_in: Sequence[str]) -> str:
    if run.clip is None:
        return missing("No frames to show: evaluation.json does not say which clips were evaluated.")
    path = os.path.abspath(result.path)  # without "..", so that what is looked at is what is opened
    if not any(path.startswith(os.path.join(os.path.abspath(folder), "")) for folder in videos_in):
        return missing("No frames to show: the video is in no folder that --videos names.")
    try:
        rows = contact_sheet(path, run.clip)
    except VideoError as error:
        return missing(f"No frames to show: {error.reason or error}")
    crops = run.clip.protocol.num_crops
    out = ['<ol tabindex="0">']
    for i, jpeg in rows.items():
        votes = dict.fromkeys(result.view_top1[i * crops : (i + 1) * crops])
        gave = "".join(f" · {text(run.class_names[c])}" for c in votes)
        out.append(f'<li>clip {i + 1}{gave}<img src="{data_uri(jpeg)}" alt="frames of clip {i + 1}"></li>')
    return "".join([*out, "</ol>"])


def failed(numbers: Numbers) -> str:
    """The section of the videos that gave no frames, with reasons."""
    out = []
    for run in numbers.runs:
        bad = statistics.failed(run.results)
        if not bad:
            out.append(missing(f"{run.name}: none of {plural(len(run.results), 'video')} failed."))
            continue
        reasons = Counter(r.error for r in bad).most_common(MOST_REASONS)
        listed = "".join(f"<li>{number(count)} × {text(reason)}</li>" for reason, count in reasons)
        rows = [(text(r.path), text(_label(run, r)), text(r.error)) for r in bad[:MOST_FAILED]]
        more = f" (the first {MOST_FAILED}; all are in predictions.csv)" if len(bad) > MOST_FAILED else ""
        out.append(
            f"<h3>{text(run.name)}: {number(len(bad))} of {plural(len(run.results), 'video')} failed</h3>"
            "<p>They are in no accuracy.</p>"
            f"<ul>{listed}</ul><details><summary>Files</summary>"
            + table(("file", "true class", "why"), rows, f"Failed videos of {text(run.name)}{more}")
            + "</details>"
        )
    return "".join(out)


def _label(run: Run, result: VideoResult) -> str:
    return run.class_names[result.label] if result.label >= 0 else "unknown"
