"""The report's first sections: what the runs are, their scores, and which of them is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from videogn.report.charts import swatch
from videogn.report.markup import NONE, Cell, missing, number, percent, plural, table, text, value
from videogn.report.numbers import Numbers, Scored
from videogn.report.paired import Comparison
from videogn.report.runs import Run
from videogn.report.statistics import CONFIDENCE, RESAMPLES, Interval

_LEVEL = f"{100 * CONFIDENCE:.0f} %"


def named(position: int, run: Run) -> str:
    """A run's name behind its line and marker."""
    return f"{swatch(position)}{text(run.name)}"


def what_runs(numbers: Numbers) -> str:
    """What was trained and evaluated, a column per run; what is not the same everywhere is marked."""
    rows: list[Sequence[Cell | str]] = []
    for label, of in _FACTS:
        facts = [of(run) for run in numbers.runs]
        differs = len(set(facts)) > 1 and label not in ("run", "date")
        mark = ' <span class="warn">differs</span>' if differs else ""
        rows.append([f"{label}{mark}", *(text(fact) for fact in facts)])
    head = ["", *(named(i, run) for i, run in enumerate(numbers.runs))]
    return table(head, rows, "What was trained and evaluated")


def _norm(run: Run) -> str:
    given = run.evaluation.architecture.get("norm_kwargs") or {}
    arguments = ", ".join(f"{name}={of}" for name, of in given.items()) if isinstance(given, dict) else str(given)
    return f"{run.norm} ({arguments})" if arguments else run.norm


def _network(run: Run) -> str:
    own = run.evaluation.architecture
    if not own:
        return NONE
    return ", ".join(f"{name} {own[name]}" for name in ("depth", "variant", "width") if name in own)


def _batch(run: Run) -> str:
    of = run.training
    if of is None or of.batch_size is None:
        return "no training.json"
    steps = f"; {plural(of.clips_per_step, 'clip')} per step" if of.clips_per_step else ""
    return f"{plural(of.batch_size, 'clip')} per norm batch, {plural(of.processes, 'process')}{steps}"


def _checkpoint(run: Run) -> str:
    of = run.evaluation
    unnamed = "the weights of the running training" if of.global_step is not None else "no file of weights was given"
    parts = [of.checkpoint or unnamed]
    parts += [f"step {of.global_step:,}"] if of.global_step is not None else []
    parts += [f"epoch {of.epoch:,}"] if of.epoch is not None else []
    return ", ".join(parts)


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {of}" for name, of in run.evaluation.versions.items()) or NONE


def _machine(run: Run) -> str:
    of = run.evaluation
    return f"{of.device or NONE}, {of.precision or NONE}, {plural(of.processes, 'process')}"


_FACTS: list[tuple[str, Callable[[Run], str]]] = [
    ("norm", _norm),
    ("network", _network),
    ("batch in training", _batch),
    ("training clips", lambda run: f"{run.clip.frames} frames x stride {run.clip.stride}" if run.clip else NONE),
    ("protocol", lambda run: run.clip.views_text() if run.clip else NONE),
    ("split", lambda run: run.evaluation.split),
    ("weights", _checkpoint),
    ("device", _machine),
    ("date", lambda run: run.evaluation.date or NONE),
    ("versions", _versions),
    ("folder", lambda run: run.folder),
]


def headlines(numbers: Numbers) -> str:
    """The scores of each run with confidence intervals."""
    rows = [_headline(i, scored) for i, scored in enumerate(numbers.scored)]
    head = (
        "run",
        "top-1 / %",
        "top-5 / %",
        "clip top-1 / %",
        "clip top-5 / %",
        "loss / nats",
        "ECE / %",
        "videos",
        "failed",
    )
    caption = (
        f"Scores of the videos that were decoded, with {_LEVEL} intervals (percentile bootstrap over videos, "
        f"{RESAMPLES:,} resamples). ECE: expected calibration error, and in brackets what a calibrated network of the "
        "same confidence would have by chance."
    )
    notes = "".join(f'<p class="warn">{text(note)}</p>' for scored in numbers.scored for note in _notes(scored))
    return table(head, rows, caption, identifier="headline", sortable=len(rows) > 1) + notes


def interval(of: Interval, shown: Callable[[float], str]) -> str:
    """``73.4`` with ``72.8 to 74.0`` beneath."""
    low, high = shown(of.low), shown(of.high)
    return f'{shown(of.value)}<br><span class="interval">{low} to {high}</span>'


def _share(of: Interval) -> Cell:
    return value(interval(of, percent), of.value)


def _headline(position: int, scored: Scored) -> list[Cell | str]:
    own, calibrated = scored.headline, scored.calibration
    by_chance = f"{percent(calibrated.ece_by_chance.low)} to {percent(calibrated.ece_by_chance.high)}"
    return [
        named(position, scored.run),
        _share(own.top1),
        _share(own.top5),
        _share(own.clip_top1),
        _share(own.clip_top5),
        value(interval(own.loss, lambda x: number(x, 3)), own.loss.value),
        value(f'{percent(calibrated.ece)}<br><span class="interval">({by_chance})</span>', calibrated.ece),
        value(number(own.videos), own.videos),
        value(number(own.failed), own.failed),
    ]


def _notes(scored: Scored) -> list[str]:
    """What a reader should know before trusting the scores of a run."""
    run, own, notes = scored.run, scored.headline, []
    expected = run.evaluation.scores.get("expected", own.videos)
    if expected != own.videos:
        notes.append(f"{run.name}: {plural(own.videos, 'video')} of {expected:,.0f} were evaluated.")
    if own.unlabelled:
        notes.append(f"{run.name}: {plural(own.unlabelled, 'video')} without a known label, in no score.")
    if own.failed:
        notes.append(f"{run.name}: {plural(own.failed, 'video')} failed, in no score.")
    return notes


def paired(numbers: Numbers) -> str:
    """Each pair of runs, on the videos that both have decoded."""
    if len(numbers.scored) < 2:
        return missing("One run alone: give several to compare them video by video.")
    rows: list[Sequence[Cell | str]] = []
    notes = []
    for compared in numbers.comparisons:
        a, b = numbers.runs[compared.a], numbers.runs[compared.b]
        top1 = compared.top1
        difference = Interval(top1.difference, top1.low, top1.high)
        rows.append(
            [
                f"{named(compared.a, a)} minus {named(compared.b, b)}",
                value(interval(difference, lambda x: percent(x, 2, sign=True)), top1.difference),
                value(p_value(top1.p_value), top1.p_value),
                value(p_value(compared.holm), compared.holm),
                value(number(top1.both), top1.both),
                value(number(top1.only_a), top1.only_a),
                value(number(top1.only_b), top1.only_b),
                value(number(top1.neither), top1.neither),
            ]
        )
        notes += _matching_notes(compared, a, b)
    head = (
        "runs A and B",
        "top-1 difference / points",
        "p (McNemar)",
        "p (Holm)",
        "both right",
        "only A right",
        "only B right",
        "both wrong",
    )
    caption = (
        f"Differences in top-1, in percentage points, with {_LEVEL} bootstrap intervals over the videos that both "
        "runs have decoded. p: McNemar's exact test, two-sided; Holm: corrected for the number of pairs. A small p "
        "speaks against chance on these videos; it says nothing about another training with another seed."
    )
    listed = f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>" if notes else ""
    return table(head, rows, caption, identifier="paired", sortable=len(rows) > 1) + listed


def p_value(p: float) -> str:
    """A probability with three digits after the point, or how small it is."""
    return "&lt; 0.001" if p < 0.001 else number(p, 3)


def _matching_notes(compared: Comparison, a: Run, b: Run) -> list[str]:
    found, notes = compared.matching, []
    pair = f"{a.name} and {b.name}"
    if not len(found.pairs):
        notes.append(f"{pair} have no video in common: nothing to compare.")
    elif found.parts and found.example:
        notes.append(
            f"{pair}: videos were matched by the last {plural(found.parts, 'part')} of their paths, for example "
            f"{found.example[0]} with {found.example[1]}."
        )
    left_out = (
        (found.failed, "failed in at least one"),
        (found.relabelled, "with different labels"),
        (found.unlabelled, "without a label"),
        (found.only_a, f"in {a.name} alone"),
        (found.only_b, f"in {b.name} alone"),
    )
    reasons = [f"{count:,} {why}" for count, why in left_out if count]
    if reasons:
        notes.append(f"{pair}: videos not compared: {', '.join(reasons)}.")
    return notes
