"""Turns requests into a finished JSONL file. Runs can be killed and resumed, and shared by several ranks.

While a run generates, every completion is written to ``<output>.rank<N>`` and synced before it counts. At the end the
ranks' files are merged into the output, complete and in input order; then the manifest says done, and the rank files are
removed. After a kill the same command generates what is missing.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import Lock
from cotkit.core.jsonl import Appender, Row, read_json
from cotkit.core.manifest import TWO_WAYS_OUT, Input, Manifest
from cotkit.generation import engines, shards
from cotkit.generation.options import EngineOptions, RunOptions
from cotkit.generation.progress import Progress, earlier_seconds, speed, truncation_warning
from cotkit.generation.shards import Key, Records
from cotkit.generation.types import Backend, Completion, Request, Sampling

log = logging.getLogger(__name__)

RANK0_PATIENCE_SECONDS = 120  # how long other ranks wait for rank 0 to check the inputs of the same launch


@dataclass
class Job:
    """One output to generate.

    Args:
        stage: name of the script, for the manifest.
        requests: all requests of the output, in its order; keys are unique.
        inputs: name -> input, for the manifest.
        settings: what the texts depend on, besides engine and sampling.
        to_row: makes the record of a request and its completion.
        load: loads the model; called only if this rank has requests to do. None loads `engine`.
    """

    stage: str
    output: Path
    requests: list[Request]
    inputs: dict[str, Input]
    settings: Row
    to_row: Callable[[Request, Completion], Row]
    engine: EngineOptions
    sampling: Sampling
    options: RunOptions
    load: Callable[[], Backend] | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.keys: list[Key] = [request.key for request in self.requests]
        self.manifest = Manifest(
            self.stage,
            self.output,
            {**engines.describe(self.engine, self.sampling), **self.settings},
            self.inputs,
            engines.model_with_files(self.engine),
            self.engine.seed,
            overwrite=self.options.overwrite,
        )
        self.rank, self.world = shards.rank_and_world()

    def load_backend(self) -> Backend:
        return self.load() if self.load else engines.load(self.engine, self.sampling)


def dry_run(job: Job) -> int:
    """Prints the first prompt exactly as the model reads it, and the number of requests; returns the exit code."""
    print(engines.preview(job.engine, job.requests[0], job.sampling))
    print(f"dry run: {len(job.requests)} requests would be made for {job.output}")
    return 0


def run(job: Job) -> int:
    """Runs this rank's part of a job, and the merge if this rank finishes last; returns the exit code."""
    options = job.options
    state = "new" if _left_nothing(job) else job.manifest.check()
    if options.is_done:
        return 0 if state == "done" else cli.NOT_DONE
    if state == "done":
        _remove_rank_files(job)
        log.info("%s: done already, nothing to do", job.output)
        return 0
    if options.merge_only:
        if not job.manifest.path.exists():
            raise UserError(f"{job.manifest.path}: is missing; it would say what the rank files were made from")
        with Lock(job.output):
            return _merge(job, _known_records(job), earlier_seconds(job.manifest.read(), shards.rank_files(job.output)))
    with Lock(shards.rank_file(job.output, job.rank)):
        if shards.prepares(job.rank, options.separate_folders):
            _prepare(job, state)
        else:
            _wait_for_rank0(job)
        done = _known_records(job).done
        share = job.requests[job.rank :: job.world]  # every world-th, so that all ranks get problems of all kinds
        todo = [request for request in share if request.key not in done]
        if done:
            log.info("%s: %d of %d results are there already", job.output, len(done), len(job.requests))
        if todo:
            _generate(job, todo, len(share))
    return _merge_if_last(job)


def _left_nothing(job: Job) -> bool:
    """Whether an earlier run began and wrote no result, for example because its adapter did not fit. Then its settings
    do not bind this run."""
    if job.output.exists() or not job.manifest.path.exists() or job.manifest.read()["status"] != "running":
        return False
    return not any(path.stat().st_size for path in shards.rank_files(job.output))


def _prepare(job: Job, state: str) -> None:
    """Rank 0's part: refuses or removes files of other runs, and marks the run as begun."""
    left_over = shards.rank_files(job.output)
    if state == "resume":
        old = job.manifest.read()
        continues = old["status"] != "running" or old.get("continues", False)
        earlier = earlier_seconds(old, left_over)
    else:
        continues, earlier = False, 0.0
        if left_over and not job.options.overwrite and not job.manifest.path.exists():
            raise UserError(f"{left_over[0]}: belongs to an unknown run; move it away, or {TWO_WAYS_OUT}")
        for path in left_over:
            if path.stat().st_size:
                log.info("%s: belongs to an older run and is removed", path)
            path.unlink()
    job.manifest.begin(launch=shards.launch_id(), continues=continues, earlier_seconds=earlier)


def _wait_for_rank0(job: Job) -> None:
    """Waits until rank 0 of the same launch has removed the files of older runs."""
    deadline = time.monotonic() + RANK0_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if job.manifest.path.exists() and read_json(job.manifest.path).get("launch") == shards.launch_id():
            return
        time.sleep(0.05)
    raise UserError(f"{job.output}: rank 0 did not start within {RANK0_PATIENCE_SECONDS} s; start all ranks")


def _known_records(job: Job) -> Records:
    """The results of this run so far, with those of a finished output that it continues."""
    records = Records()
    record = read_json(job.manifest.path) if job.manifest.path.exists() else {}
    if job.output.exists() and (record.get("continues") or record.get("status") in ("done", "incomplete")):
        records.add_file(job.output)
    for path in shards.rank_files(job.output):
        records.add_file(path)
    return records


def _generate(job: Job, todo: list[Request], total: int) -> None:
    """Generates this rank's missing results. `total` is the number of all its results, for the progress bar."""
    path = shards.rank_file(job.output, job.rank)
    with Appender(
        path
    ) as appender:  # opened first, so that a full disk or a missing folder shows before the model loads
        if appender.torn_bytes:
            log.info("%s: cut off a torn last line of %d bytes", path, appender.torn_bytes)
        backend, launcher = job.load_backend(), os.getppid()
        progress = Progress(job.output.name, total, total - len(todo), silent=job.rank > 0)
        for request, completion in backend.generate(todo):
            appender.append([job.to_row(request, completion)])
            if job.world > 1 and os.getppid() != launcher:
                raise UserError("the launcher was killed, so this rank stops; the same command resumes")
            progress.add(completion)
    log.info("%s: %s", path, progress.close())


def _merge_if_last(job: Job) -> int:
    """Merges if the results of all ranks are there. The lock lets one rank look at a time."""
    with Lock(job.output, patience_seconds=RANK0_PATIENCE_SECONDS):
        if job.manifest.read()["status"] != "running":
            return 0  # another rank was last and has merged
        records = _known_records(job)
        missing = records.missing(job.keys)
        if missing and job.world > 1:
            log.info("%s: rank %d is done; %d results of other ranks are missing", job.output, job.rank, len(missing))
            return 0
        return _merge(job, records, job.manifest.read()["earlier_seconds"])


def _merge(job: Job, records: Records, earlier: float) -> int:
    """Writes the output, then the manifest, then removes the rank files; returns the exit code.

    `earlier` are the seconds of the launches before this one.
    """
    shards.merge(job.output, records, job.keys)
    counts = count(records.rows(job.keys))
    if records.copies:
        counts["identical_copies"] = records.copies
    failed = [key for key in job.keys if key in records.failed]
    now = round(time.monotonic() - job.started, 1)
    spent = {"seconds": round(earlier + now, 1), "seconds_of_last_launch": now}
    spent |= speed(counts, spent["seconds"])
    # The launch is recorded again: a rank that starts late must see that rank 0 of its launch has prepared.
    status = "incomplete" if failed else "done"
    job.manifest.finish([job.output], counts, status=status, **spent, launch=shards.launch_id())
    _remove_rank_files(job)
    log.info("%s: %s", job.output, ", ".join(f"{name} {value}" for name, value in {**counts, **spent}.items()))
    if warning := truncation_warning(counts["truncated_share"], job.sampling):
        log.info("%s", warning)
    if failed:
        reason = next(records.rows(failed[:1])).get("error")
        text = f"{len(failed)} results failed: {shards.show(*failed)} ({reason}); the same command tries again"
        print(f"{job.output}: {text}", file=sys.stderr)
        return cli.SOME_ITEMS_FAILED
    return 0


def _remove_rank_files(job: Job) -> None:
    """Removes the rank files of a finished output; a kill at the end of a merge can leave them behind."""
    for path in shards.rank_files(job.output):
        path.unlink(missing_ok=True)


def count(rows: Iterable[Row]) -> Row:
    """Rows, finish reasons, token sums and the truncated share of generated records."""
    reasons: Counter[str] = Counter()
    prompt_tokens = completion_tokens = 0
    for row in rows:
        reasons[row["finish_reason"]] += 1
        prompt_tokens += row["prompt_tokens"]
        completion_tokens += row["completion_tokens"]
    total = reasons.total()
    return {
        "rows": total,
        **dict(sorted(reasons.items())),
        "truncated_share": round(reasons["length"] / total, 4) if total else 0.0,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }
