"""Continuous batching with a transformers model: waiting rows take the slots of finished ones.

`model.generate` runs a batch until its longest row ends. Here a finished row is yielded at once and a waiting row takes
its slot. The number of rows in flight is limited by the tokens that they may have, because the KV cache is what fills the
memory. The beginning that all prompts share (system prompt, worked example) is computed once, and so is a prompt that
several samples share. How tokens are drawn is in `sampling.py`.
"""

from __future__ import annotations

import copy
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from cotkit.generation.backends import families
from cotkit.generation.backends.kv_slots import Slots, extend, set_attention
from cotkit.generation.backends.sampling import choose
from cotkit.generation.chat_model import ActiveRow, answered, decode, encode, looped, opened_thought, turn_end_ids
from cotkit.generation.types import Completion, Request, Sampling

log = logging.getLogger(__name__)

Result = tuple[Request, Completion]

# A shared beginning of fewer tokens is not worth a cache of its own.
MIN_SHARED_TOKENS = 8
# Free slots wait until they are this share of the batch. Filling or dropping them one by one would mean a prefill of one
# short prompt, or a copy of the whole cache, for each.
WORTHWHILE_SHARE = 1 / 8
# Tokens of one prefill, padding included. This is enough to keep the cores busy; more prompts would differ more in
# length, which is padding.
PREFILL_TOKENS = 1024


@dataclass
class DecodingStats:
    """What decoding has cost. Idle slots and padding are computed for nothing."""

    steps: int = 0
    slots: int = 0  # summed over the steps, like `rows`
    rows: int = 0
    prefill_tokens: int = 0  # padding included
    padding: int = 0

    def __str__(self) -> str:
        if not self.steps:
            return "no decoding step"
        return (
            f"{self.steps} decoding steps with {self.rows / self.steps:.1f} rows in flight on average, "
            f"{1 - self.rows / self.slots:.1%} of the slots idle; prefill of {self.prefill_tokens} tokens, "
            f"{self.padding / self.prefill_tokens:.1%} of them padding"
        )


class Decoder:
    """A loaded model as a `Backend`.

    Args:
        batch_size: the most rows in flight.
        batch_tokens: the most tokens that the rows in flight may have, prompts and limits together.
        seed: of the run; each request derives its own.
    """

    def __init__(
        self, model: Any, tokenizer: Any, sampling: Sampling, batch_size: int, batch_tokens: int, seed: int
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.seed = model, tokenizer, sampling, seed
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.turn_ends = turn_end_ids(tokenizer, model.generation_config)
        self.context, self._limit = families.context_limit(model.config)
        self.stats = DecodingStats()
        self._shared: list[int] = []  # the tokens that all prompts begin with
        self._shared_cache: DynamicCache | None = None  # their keys and values
        families.require_supported(model.config, model.config.name_or_path)
        set_attention(model)

    def close(self) -> None:
        """Has nothing to end: memory is freed with the object."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result]:
        """Yields every request once, as soon as it is finished."""
        waiting: deque[ActiveRow] = deque()
        for row in self._rows(requests):
            if row.need > self.context:
                yield row.request, row.too_long(self._limit)
            else:
                waiting.append(row)
        self._share_beginning([row.prefix for row in waiting])
        self.stats, slots = DecodingStats(), Slots(self.context)
        while waiting or slots.live:
            entering: list[ActiveRow] = []
            try:
                entering = self._entering(slots, waiting)
                self._admit(slots, waiting, entering)
                yield from self._step(slots, waiting)
                continue
            except torch.OutOfMemoryError:  # handled below, outside this block, where the error no longer holds tensors
                entering = [row for row in entering if row in waiting]
            flight = sorted(slots.live + entering, key=lambda row: -len(row.prompt))
            slots = Slots(self.context)
            torch.cuda.empty_cache()
            yield from self._make_room(flight, waiting)
        log.info("%s", self.stats)

    def _rows(self, requests: Sequence[Request]) -> list[ActiveRow]:
        """The longest prompts first: neighbours of similar length need little padding, and memory runs out early if at all."""
        rows = [self._fresh(one, encode(self.tokenizer, one.messages, self.sampling.thinking)) for one in requests]
        return sorted(rows, key=lambda row: (-len(row.prompt), row.request.key))

    def _fresh(self, request: Request, prompt: list[int]) -> ActiveRow:
        row = ActiveRow(request, prompt, self.sampling, opened_thought(self.tokenizer, prompt))
        if self.sampling.temperature > 0:
            row.generator = torch.Generator().manual_seed(request.seed(self.seed))
        return row

    def _share_beginning(self, prefixes: list[list[int]]) -> None:
        """Computes the common beginning of all prefixes once; every prefill starts from a copy of its cache."""
        self._shared, self._shared_cache = [], None
        common = os.path.commonprefix(prefixes)  # works on any sequences
        if len(prefixes) < 2 or len(common) < MIN_SHARED_TOKENS:
            return
        self._shared, self._shared_cache = common, DynamicCache()
        with torch.inference_mode():
            extend(self.model, self._shared_cache, [self._shared], 0)

    def _entering(self, slots: Slots, waiting: deque[ActiveRow]) -> list[ActiveRow]:
        """The waiting rows that get a slot now: as many as the limits allow, or none if those are too few to be worth it."""
        live = slots.live
        need, rows = max((row.need for row in live), default=0), []
        for row in waiting:
            wider, number = max(need, row.need), len(live) + len(rows) + 1
            if number > self.batch_size or number > 1 and number * wider > self.batch_tokens:
                break
            need = wider
            rows.append(row)
        return rows if not live or len(rows) >= WORTHWHILE_SHARE * len(live) or len(rows) == len(waiting) else []

    def _admit(self, slots: Slots, waiting: deque[ActiveRow], entering: list[ActiveRow]) -> None:
        """Prefills the entering rows and gives them slots."""
        total, left = len(slots.live) + len(entering), entering
        while left:
            chunk = self._chunk(left)
            left = left[len(chunk) :]
            distinct = list(dict.fromkeys(tuple(row.prefix) for row in chunk))
            line = {prefix: number for number, prefix in enumerate(distinct)}
            with torch.inference_mode():
                slots.put(chunk, self._prefill(distinct), [line[tuple(row.prefix)] for row in chunk], total)
            for _ in chunk:
                waiting.popleft()

    def _chunk(self, rows: list[ActiveRow]) -> list[ActiveRow]:
        """The first rows, up to `PREFILL_TOKENS`, for one prefill; a prompt that several rows share counts once."""
        width, distinct = 0, set()
        for number, row in enumerate(rows):
            width = max(width, len(row.prefix) - len(self._shared))
            distinct.add(tuple(row.prefix))
            if number and width * len(distinct) > PREFILL_TOKENS:
                return rows[:number]
        return list(rows)

    def _prefill(self, prefixes: list[tuple[int, ...]]) -> DynamicCache:
        """The cache of prefixes, one per line. Padding is on the right, where no token of a prefix attends to it.

        So a column is a position: a window, a bias or a mask that counts columns counts tokens of the row.
        """
        shared = len(self._shared)
        width = max(shared + 1, *map(len, prefixes))  # at least one column: the cache must know its shapes
        own = [[*prefix[shared:], *[0] * (width - len(prefix))] for prefix in prefixes]
        cache = DynamicCache()
        if self._shared_cache is not None:
            cache = copy.deepcopy(self._shared_cache)
            cache.batch_repeat_interleave(len(prefixes))
        extend(self.model, cache, own, shared)
        self.stats.prefill_tokens += len(prefixes) * (width - shared)
        self.stats.padding += sum(width - len(prefix) for prefix in prefixes)
        return cache

    def _step(self, slots: Slots, waiting: deque[ActiveRow]) -> Iterator[Result]:
        """Adds one token to every row in flight; yields the rows that end."""
        live = slots.live
        if not live:
            return
        with torch.inference_mode():
            if not waiting and len(slots.rows) - len(live) > WORTHWHILE_SHARE * len(slots.rows):
                slots.arrange(len(live))
            chosen = self._choose(slots.step(self.model), slots.live)
        self.stats.steps += 1
        self.stats.slots += len(slots.rows)
        self.stats.rows += len(live)
        for row, token in zip(live, chosen, strict=True):
            completion = self._advance(row, token)
            if completion is not None:
                slots.release(row)
                yield row.request, completion

    def _make_room(self, flight: list[ActiveRow], waiting: deque[ActiveRow]) -> Iterator[Result]:
        """After memory ran out: restarts the rows in flight with half as many at once. A row that was alone fails."""
        self.batch_tokens = len(flight) * max(row.need for row in flight) // 2
        while waiting and waiting[0] in flight:
            waiting.popleft()
        if len(flight) == 1:
            yield flight[0].request, Completion("", "error", len(flight[0].prompt), 0, "out of memory with one row")
        else:
            waiting.extendleft(self._fresh(row.request, row.prompt) for row in reversed(flight))

    def _choose(self, scores: torch.Tensor, rows: list[ActiveRow]) -> list[int]:
        """The next token of each row from scores of shape (rows, vocabulary)."""
        return choose(scores, self.sampling, [row.generator for row in rows])

    def _advance(self, row: ActiveRow, token: int) -> Completion | None:
        """Adds a token to a row; returns its completion if the token ends it."""
        row.tokens.append(token)
        if token in self.turn_ends:
            return row.finished("stop", decode(self.tokenizer, row.tokens[:-1]))
        if self.sampling.stop_at_answer and (text := answered(self.tokenizer, row.tokens, row.opened)) is not None:
            return row.finished("answer", text)
        if self.sampling.stop_at_loop and looped(row.tokens):
            return row.finished("loop", decode(self.tokenizer, row.tokens))
        if len(row.tokens) >= row.request.budget(self.sampling):
            return row.finished("length", decode(self.tokenizer, row.tokens))
        return None
