"""Reads thousands of damaged video files in child processes: frames or one VideoError each, or it is a finding.

    python scripts/fuzz_decode.py --files 3000 --seed 0 --backend pyav [VIDEO ...]

Small files of sixteen kinds are generated (and the given VIDEOs taken) and damaged by the mutations of
``tests/fuzzing.py``. A finding is any other exception than VideoError, frames of a wrong type or shape, more memory
than ``--memory``, and a crash or a hang of PyAV; the file is then kept under ``--out``, and the exit code is 1. decord
and torchcodec are native code that is not this project's: where they crash or hang, the guard ends them with a
VideoError, which is counted on its own.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measured import write_result

from videogn.data.decode import BACKENDS, check_backend
from videogn.data.guard import guarded_map

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from fuzzing import MUTATIONS, Job, Outcome, jobs, read_damaged, write_seeds

MIB = 1 << 20
KINDS = ("frames", "error", "guard", "finding")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="real files to damage as well")
    parser.add_argument("--files", type=int, default=2000, help="damaged files to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS, default="pyav")
    parser.add_argument("--workers", type=int, default=1, help="child processes")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds after which a child is ended")
    parser.add_argument("--memory", type=int, default=2048, help="MiB that reading one file may take at most")
    parser.add_argument("--out", type=Path, default=Path("fuzz_findings"), help="folder for the files of findings")
    arguments = parser.parse_args()
    check_backend(arguments.backend)

    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        sources = write_seeds(seeds) + arguments.videos
        todo = {
            job.name: job for job in jobs(sources, arguments.files, arguments.seed, arguments.backend, Path(folder))
        }
        results: list[tuple[Job, Outcome]] = []
        for name, outcome in guarded_map(
            read_damaged, ((name, job) for name, job in todo.items()), arguments.workers, arguments.timeout
        ):
            result = judge(outcome, arguments)
            results.append((todo[name], result))
            if result.kind == "finding":
                keep(todo[name], arguments.out)
                print(f"finding: {name}: {result.text}", flush=True)
            if len(results) % 200 == 0:
                print(f"{len(results)} of {arguments.files} files", flush=True)
    print(table(results))
    summary = summarise(results)
    print("; ".join(f"{key}: {value}" for key, value in summary.items()))
    fields = {"backend": arguments.backend, "seed": arguments.seed, **summary, "counts": counts(results)}
    fields["slowest"] = extremes(results, lambda result: round(result.seconds, 3))
    fields["largest_mib"] = extremes(results, lambda result: result.peak // MIB)
    fields["findings_list"] = [f"{job.name}: {result.text}" for job, result in results if result.kind == "finding"]
    fields["guard_list"] = [f"{job.name}: {result.text}" for job, result in results if result.kind == "guard"]
    print(f"written: {write_result('fuzz_decode', arguments.backend, fields)}")
    return 1 if summary["finding"] else 0


def judge(outcome: Outcome | Exception, arguments: argparse.Namespace) -> Outcome:
    """The child's own verdict; ``guard`` where the child was ended, or a finding if that was PyAV's."""
    if isinstance(outcome, Exception):
        return Outcome("finding" if arguments.backend == "pyav" else "guard", str(outcome), arguments.timeout, 0)
    if outcome.peak > arguments.memory * MIB:
        return Outcome(
            "finding", f"{outcome.peak // MIB} MiB of memory ({outcome.text})", outcome.seconds, outcome.peak
        )
    return outcome


def keep(job: Job, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / job.name).write_bytes(job.data())


def counts(results: list[tuple[Job, Outcome]]) -> dict[str, dict[str, dict[str, int]]]:
    """source -> mutation -> kind -> files."""
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for job, result in results:
        kinds = nested.setdefault(job.source.name, {}).setdefault(job.mutation, {})
        kinds[result.kind] = kinds.get(result.kind, 0) + 1
    return nested


def extremes(results: list[tuple[Job, Outcome]], measure: Callable[[Outcome], float]) -> dict[str, float]:
    """The five files with the largest of a measure."""
    ordered = sorted(results, key=lambda entry: measure(entry[1]), reverse=True)
    return {f"{job.name}: {result.text}": measure(result) for job, result in ordered[:5]}


def summarise(results: list[tuple[Job, Outcome]]) -> dict[str, float]:
    found = collections.Counter(result.kind for _, result in results)
    summary: dict[str, float] = {"files": len(results), **{kind: found[kind] for kind in KINDS}}
    summary["seconds_total"] = round(sum(result.seconds for _, result in results), 1)
    summary["seconds_longest"] = round(max(result.seconds for _, result in results), 3)
    summary["peak_memory_mib_median"] = sorted(result.peak for _, result in results)[len(results) // 2] // MIB
    summary["peak_memory_mib_largest"] = max(result.peak for _, result in results) // MIB
    return summary


def table(results: list[tuple[Job, Outcome]]) -> str:
    """Rows: sources; columns: mutations; cells: frames/errors, with +ended by the guard and !findings if there are."""
    rows = [["frames/errors", *MUTATIONS]]
    for source, by_mutation in counts(results).items():
        cells = []
        for mutation in MUTATIONS:
            kinds = by_mutation.get(mutation, {})
            cell = f"{kinds.get('frames', 0)}/{kinds.get('error', 0)}"
            cell += f"+{kinds['guard']}" if "guard" in kinds else ""
            cells.append(cell + (f"!{kinds['finding']}" if "finding" in kinds else ""))
        rows.append([source, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
