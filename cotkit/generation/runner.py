"""Turns requests into finished JSONL files: resumable, split over ranks, all or nothing.

While a run goes on, every completion is on the disk in ``<output>.rank<N>`` before it counts. The output appears at once,
complete and in input order; then the manifest gets status done, and the rank files are removed. After a kill at any
moment, the same command continues with the missing results. Several outputs of one process share a loaded model.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import locked
from cotkit.core.jsonl import Appender, Row, read_json
from cotkit.core.manifest import Input, Manifest, ways_out
from cotkit.generation import engines, shards
from cotkit.generation.options import EngineOptions, RunOptions
from cotkit.generation.progress import Progress, count, earlier_seconds, speed, summary, truncation_warning
from cotkit.generation.types import Completion, Request, Sampling

log = logging.getLogger(__name__)

RANK0_PATIENCE_SECONDS = 120  # how long other ranks wait for rank 0 to check the inputs of the same launch


@dataclass(frozen=True)
class Job:
    """One output to generate.

    Args:
        stage: name of the script, for the manifest.
        requests: everything that the output will hold, in its order; keys are unique.
        settings: what the texts depend on, besides engine and sampling.
        to_row: makes the record of a request and its completion.
        expects_truncation: texts run to the limit for another reason than a low limit, or will be asked for again: then a
            high share of truncated texts is stated, but no advice is given.
        facts: recorded in the manifest beside the settings, from which they follow.
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
    expects_truncation: bool = False
    facts: Row = field(default_factory=dict)


def dry_run(*jobs: Job) -> int:
    """Prints the first prompt exactly as the model reads it, and each job's number of requests; returns the exit code."""
    print(engines.preview(jobs[0].engine, jobs[0].requests[0], jobs[0].sampling))
    for job in jobs:
        print(f"dry run: {len(job.requests)} requests would be made for {job.output}")
    return 0


def run(*jobs: Job, loader: engines.Loader | None = None) -> int:
    """Runs this rank's part of each job, and the merge where this rank finishes last; returns the exit code.

    All outputs are checked, and marked as begun, before the first model is loaded. Then every rank goes through the jobs at
    its own pace. A job with failed results does not stop the others.

    Args:
        loader: what is loaded already; by default nothing.
    """
    loader = loader or engines.Loader()
    runs = [_Run(job) for job in jobs]
    if jobs[0].options.is_done:
        return 0 if all(one.state == "done" for one in runs) else cli.NOT_DONE
    with ExitStack() as locks:
        for one in runs:
            one.begin(locks)
        return max([one.finish(loader) for one in runs])


class _Run:
    def __init__(self, job: Job) -> None:
        self.job, self.options, self.output = job, job.options, job.output
        self.keys = [request.key for request in job.requests]
        self.rank, self.world = shards.rank_and_world()
        settings = {**engines.describe(job.engine, job.sampling), **job.settings}
        model, seed = engines.model_with_files(job.engine), job.engine.seed
        self.manifest = Manifest(
            job.stage, job.output, settings, job.inputs, model, seed, overwrite=job.options.overwrite, facts=job.facts
        )
        self.state = "new" if self._nothing_made() else self.manifest.check()
        self._begun: Row | None = None  # what the manifest records of this launch, if this rank writes it

    def begin(self, locks: ExitStack) -> None:
        """Takes this rank's file, until `locks` are closed, and marks the output as begun or waits until rank 0 has."""
        if self.state == "done" or self.options.merge_only:
            return
        locks.enter_context(locked(shards.rank_file(self.output, self.rank)))
        if shards.prepares(self.rank, self.options.separate_folders):
            self._prepare()
        else:
            self._wait_for_rank0()

    def finish(self, loader: engines.Loader) -> int:
        """Makes this rank's missing results and merges if it is the last rank; returns the exit code."""
        self.started = time.monotonic()
        if self.state == "done":
            self._remove_rank_files()  # a kill between the last two steps of a merge may have left some
            log.info("%s: done already, nothing to do", self.output)
            return 0
        if self.options.merge_only:
            return self._merge_only()
        done = self._known_records().done
        share = self.job.requests[self.rank :: self.world]  # every world-th: all ranks get problems of all kinds
        missing = [request for request in share if request.key not in done]
        if done:
            log.info("%s: %d of %d results are there already", self.output, len(done), len(self.keys))
        if missing:
            if self._begun is not None:
                self.manifest.begin(**self._begun)  # an output's time does not include that of the jobs before it
            self._generate(missing, len(share), loader)
        return self._merge_if_last()

    def _nothing_made(self) -> bool:
        """Whether an earlier run began and left nothing, as after a misfit adapter. Its settings then do not matter."""
        if self.output.exists() or not self.manifest.path.exists() or self.manifest.read()["status"] != "running":
            return False
        return not any(path.stat().st_size for path in shards.rank_files(self.output))

    def _prepare(self) -> None:
        """Rank 0's part: refuses files of unknown runs, removes those of an older run, and marks the run as begun."""
        left_over = shards.rank_files(self.output)
        if self.state == "resume":
            old = self.manifest.read()
            continues = old["status"] != "running" or old.get("continues", False)
            earlier = earlier_seconds(old, left_over)
        else:
            continues, earlier = False, 0.0
            if left_over and not self.options.overwrite and not self.manifest.path.exists():
                raise UserError(f"{left_over[0]}: left over from an unknown run; move it away, or {ways_out()}")
            for path in left_over:
                if path.stat().st_size:  # a failed start leaves an empty file, which needs no message
                    log.info("%s: belongs to an older run and is removed", path)
                path.unlink()
        self._begun = {"launch": shards.launch_id(), "continues": continues, "earlier_seconds": earlier}
        self.manifest.begin(**self._begun)

    def _wait_for_rank0(self) -> None:
        """Waits until rank 0 of this launch has prepared the folder: then files of an older run are gone."""
        deadline = time.monotonic() + RANK0_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.manifest.path.exists() and read_json(self.manifest.path).get("launch") == shards.launch_id():
                return
            time.sleep(0.05)
        raise UserError(f"{self.output}: rank 0 did not start within {RANK0_PATIENCE_SECONDS} s; start all ranks")

    def _known_records(self) -> shards.Records:
        """The results that exist: of this run, and of the finished part that it continues."""
        records = shards.Records()
        manifest = self.manifest.read() if self.manifest.path.exists() else {}
        if self.output.exists() and (manifest.get("continues") or manifest.get("status") in ("done", "incomplete")):
            records.add_file(self.output)
        for path in shards.rank_files(self.output):
            records.add_file(path)
        return records

    def _generate(self, missing: list[Request], total: int, loader: engines.Loader) -> None:
        """Generates this rank's missing results, of `total`. Each is on the disk before the next one is counted."""
        path = shards.rank_file(self.output, self.rank)
        with Appender(path) as appender:  # opened before the model loads, to notice a full disk or missing folder early
            if appender.torn_bytes:
                log.info("%s: cut off a torn last line of %d bytes", path, appender.torn_bytes)
            name = f"{self.output.name} (rank 0 of {self.world})" if self.world > 1 else self.output.name
            with Progress(name, total, total - len(missing), silent=self.rank > 0) as progress:
                backend = loader.load(self.job.engine, self.job.sampling)
                launcher = os.getppid()
                progress.loaded()
                for request, completion in backend.generate(missing):
                    appender.append([self.job.to_row(request, completion)])
                    if self.world > 1 and os.getppid() != launcher:
                        raise UserError("the launcher was killed, so this rank stops; the same command resumes")
                    progress.add(completion)
        if self.world > 1:
            log.info("%s: %s", path, progress.summary())

    def _merge_only(self) -> int:
        path = self.manifest.path
        if not path.exists():
            raise UserError(f"{path}: is missing; only it records what the rank files were made from")
        with locked(self.output):
            earlier = earlier_seconds(self.manifest.read(), shards.rank_files(self.output))
            return self._merge(self._known_records(), earlier)

    def _merge_if_last(self) -> int:
        """Merges if the results of all ranks are there. The lock lets one rank at a time look."""
        with locked(self.output, patience_seconds=RANK0_PATIENCE_SECONDS):
            manifest = self.manifest.read()
            if manifest["status"] != "running":
                return 0  # another rank was last and has merged
            records = self._known_records()
            missing = len(records.missing(self.keys))
            if missing and self.world > 1:
                log.info("%s: rank %d is done; %d results of other ranks are missing", self.output, self.rank, missing)
                return 0
            return self._merge(records, manifest["earlier_seconds"])

    def _merge(self, records: shards.Records, earlier: float) -> int:
        """Writes the output, then the manifest, then removes the rank files; returns the exit code.

        `earlier`: seconds of the launches before this one.
        """
        shards.merge(self.output, records, self.keys)
        counts = count(records.rows(self.keys))
        if records.copies:
            counts["identical_copies"] = records.copies
        failed = [key for key in self.keys if key in records.failed]
        now = round(time.monotonic() - self.started, 1)
        spent = {"seconds": round(earlier + now, 1), "seconds_of_last_launch": now}
        line = summary(counts, **spent)
        spent |= speed(counts, spent["seconds"])
        # The launch is kept, because a rank that starts late must see that rank 0 has been here.
        status = "incomplete" if failed else "done"
        self.manifest.finish([self.output], counts, status=status, **spent, launch=shards.launch_id())
        self._remove_rank_files()
        log.info("%s: %s", self.output, line)
        if warning := self._truncation_warning(counts):
            log.info("%s", warning)
        if failed:
            reason = next(records.rows(failed[:1])).get("error")
            text = f"{len(failed)} results failed: {shards.show(*failed)} ({reason}); the same command tries again"
            print(f"{self.output}: {text}", file=sys.stderr)
            return cli.SOME_ITEMS_FAILED
        return 0

    def _truncation_warning(self, counts: Row) -> str | None:
        """Advice about the token limit, unless the job expects truncated texts or one row is all there is."""
        if counts.get("length", 0) < 2 or (self.job.expects_truncation and not self.job.sampling.thinking):
            return None
        return truncation_warning(counts["truncated_share"], self.job.sampling)

    def _remove_rank_files(self) -> None:
        for path in shards.rank_files(self.output):
            path.unlink(missing_ok=True)
