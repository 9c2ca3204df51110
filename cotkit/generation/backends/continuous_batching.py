"""Batched decoding with a model of transformers, where waiting rows take the places of those that are done.

`model.generate` runs a batch until its longest row ends. Here a finished row is handed out at once, its text goes to
the disk, and a waiting row takes its place; how many rows run together is bounded by the tokens that they may come to,
since keys and values are what fills the memory. What all prompts begin with (system prompt, worked example) is computed
once, and so is a prompt that several samples share. Sampling adds Gumbel noise from a generator of the row's own to its
scores and takes the largest, which is a draw from the softmax; so a row's text depends on its own seed and not on its
neighbours.
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
from transformers import DynamicCache, TopKLogitsWarper, TopPLogitsWarper

from cotkit.generation.backends.kv_slots import ActiveRow, Slots, use_grouped_attention
from cotkit.generation.chat_model import answered, decode, encode, turn_end_ids
from cotkit.generation.types import Completion, Request, Sampling

log = logging.getLogger(__name__)

Result = tuple[Request, Completion]

# A shared beginning of fewer tokens is not worth a cache of its own.
MIN_SHARED_TOKENS = 8
# Free places wait until they are this share of the batch: to fill or to drop them one by one would mean a run of the
# model over a short prompt, or a copy of the whole cache, for each.
WORTHWHILE_SHARE = 1 / 8
# Prompts computed in one run of the model, in tokens with padding: enough to keep cores busy; more of them differ more in
# length, which is padding.
PREFILL_TOKENS = 1024


@dataclass
class Work:
    """What decoding has cost: places are computed whether a row stands there or not."""

    steps: int = 0
    places: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    prompt_columns: int = 0

    def __str__(self) -> str:
        if not self.steps:
            return "no decoding step"
        return (
            f"{self.steps} decoding steps with {self.rows / self.steps:.1f} rows in flight on average, "
            f"{1 - self.rows / self.places:.1%} of the places idle; prompts {self.prompt_columns} columns, "
            f"{1 - self.prompt_tokens / self.prompt_columns:.1%} of them padding"
        )


class Decoder:
    """A loaded model as a `Backend`.

    Args:
        batch_size: rows in flight at most.
        batch_tokens: tokens that the rows in flight may come to at most, prompts and limits together.
    """

    def __init__(
        self, model: Any, tokenizer: Any, sampling: Sampling, batch_size: int, batch_tokens: int, seed: int
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.seed = model, tokenizer, sampling, seed
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.turn_ends = turn_end_ids(tokenizer, model.generation_config)
        self.context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self.work = Work()
        self._shared: list[int] = []  # the tokens that all prompts begin with, and their keys and values
        self._shared_cache: DynamicCache | None = None
        use_grouped_attention(model)

    def generate(self, requests: Sequence[Request]) -> Iterator[Result]:
        """Yields every request once, as soon as it is finished."""
        waiting: deque[ActiveRow] = deque()
        for row in self._rows(requests):
            if row.need > self.context:
                yield row.request, self._too_long(row)
            else:
                waiting.append(row)
        self._share_beginning([row.prompt for row in waiting])
        self.work, places = Work(), Slots()
        while waiting or places.live:
            entering: list[ActiveRow] = []
            try:
                entering = self._entering(places, waiting)
                yield from self._admit(places, waiting, entering)
                yield from self._step(places, waiting)
                continue
            except torch.OutOfMemoryError:  # what follows stands outside, where the error no longer holds tensors
                entering = [row for row in entering if row in waiting]
            flight = sorted(places.live + entering, key=lambda row: -len(row.prompt))
            places = Slots()
            torch.cuda.empty_cache()
            yield from self._make_room(flight, waiting)
        log.info("%s", self.work)

    def _rows(self, requests: Sequence[Request]) -> list[ActiveRow]:
        """The longest prompts first: neighbours of like length need little padding, and memory trouble shows at once."""
        rows = []
        for request in requests:
            prompt = encode(self.tokenizer, request.messages, self.sampling.thinking)
            rows.append(self._fresh(request, prompt))
        return sorted(rows, key=lambda row: (-len(row.prompt), row.request.key))

    def _fresh(self, request: Request, prompt: list[int]) -> ActiveRow:
        row = ActiveRow(request, prompt, self.sampling)
        if self.sampling.temperature > 0:
            row.generator = torch.Generator().manual_seed(request.seed(self.seed))
        return row

    def _too_long(self, row: ActiveRow) -> Completion:
        error = f"prompt of {len(row.prompt)} tokens + max_new_tokens is over the model's context of {self.context}"
        return Completion("", "error", len(row.prompt), 0, error)

    def _share_beginning(self, prompts: list[list[int]]) -> None:
        """Computes the common beginning of all prompts once; batches start from a copy of its cache."""
        self._shared, self._shared_cache = [], None
        common = os.path.commonprefix(prompts)  # works on any sequences
        longest = min(len(common), min(map(len, prompts), default=0) - 1)  # every row keeps a token of its own
        if len(prompts) < 2 or longest < MIN_SHARED_TOKENS:
            return
        self._shared, self._shared_cache = common[:longest], DynamicCache()
        with torch.inference_mode():
            ids = torch.tensor([self._shared], device=self.model.device)
            self.model(input_ids=ids, past_key_values=self._shared_cache, use_cache=True, logits_to_keep=1)

    def _entering(self, places: Slots, waiting: deque[ActiveRow]) -> list[ActiveRow]:
        """The waiting rows that get a place now: as many as the limits allow, none if those are too few to bother."""
        live = places.live
        need, rows = max((row.need for row in live), default=0), []
        for row in waiting:
            wider, number = max(need, row.need), len(live) + len(rows) + 1
            if number > self.batch_size or number > 1 and number * wider > self.batch_tokens:
                break
            need = wider
            rows.append(row)
        return rows if not live or len(rows) >= WORTHWHILE_SHARE * len(live) or len(rows) == len(waiting) else []

    def _admit(self, places: Slots, waiting: deque[ActiveRow], entering: list[ActiveRow]) -> Iterator[Result]:
        """Computes the prompts of entering rows and gives them places; yields those that one token ends."""
        total, left = len(places.live) + len(entering), entering
        while left:
            chunk = self._chunk(left)
            left = left[len(chunk) :]
            with torch.inference_mode():
                distinct = list(dict.fromkeys(tuple(row.prompt) for row in chunk))
                cache, mask, scores = self._prefill(distinct)
                line = {prompt: number for number, prompt in enumerate(distinct)}
                lines = [line[tuple(row.prompt)] for row in chunk]
                chosen = self._choose(scores[lines], chunk)
                done = [self._advance(row, token) for row, token in zip(chunk, chosen, strict=True)]
                staying = [number for number, completion in enumerate(done) if completion is None]
                if staying:
                    places.put([chunk[n] for n in staying], cache, mask, [lines[n] for n in staying], total)
            for row, completion in zip(chunk, done, strict=True):
                waiting.popleft()
                if completion is not None:
                    yield row.request, completion

    def _chunk(self, rows: list[ActiveRow]) -> list[ActiveRow]:
        """The first of the rows whose prompts are computed together; the same prompt counts once."""
        width, distinct = 0, set()
        for number, row in enumerate(rows):
            width = max(width, len(row.prompt) - len(self._shared))
            distinct.add(tuple(row.prompt))
            if number and width * len(distinct) > PREFILL_TOKENS:
                return rows[:number]
        return list(rows)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """(cache, mask, scores) of prompts; after the shared beginning each is padded on the left."""
        shared, width, device = len(self._shared), max(map(len, prompts)), self.model.device
        pads = [width - len(prompt) for prompt in prompts]
        own = [[0] * pad + list(prompt[shared:]) for pad, prompt in zip(pads, prompts, strict=True)]
        mask = torch.tensor([[1] * shared + [0] * pad + [1] * (width - shared - pad) for pad in pads], device=device)
        cache = DynamicCache()
        if self._shared_cache is not None:
            cache = copy.deepcopy(self._shared_cache)
            cache.batch_repeat_interleave(len(prompts))
        output = self.model(
            input_ids=torch.tensor(own, device=device),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, shared:],
            logits_to_keep=1,
        )
        self.work.prompt_columns += len(prompts) * (width - shared)
        self.work.prompt_tokens += len(prompts) * (width - shared) - sum(pads)
        return cache, mask.bool(), output.logits[:, -1].float()

    def _step(self, places: Slots, waiting: deque[ActiveRow]) -> Iterator[Result]:
        """One token for every row in flight; yields the rows that end."""
        live = places.live
        if not live:
            return
        with torch.inference_mode():
            if not waiting and len(places.rows) - len(live) > WORTHWHILE_SHARE * len(places.rows):
                places.arrange(len(live))
            chosen = self._choose(places.step(self.model), places.live)
        self.work.steps += 1
        self.work.places += len(places.rows)
        self.work.rows += len(live)
        for row, token in zip(live, chosen, strict=True):
            completion = self._advance(row, token)
            if completion is not None:
                places.release(row)
                yield row.request, completion

    def _make_room(self, flight: list[ActiveRow], waiting: deque[ActiveRow]) -> Iterator[Result]:
        """After memory ran out: half as many rows are tried next, from their beginning; one row alone fails."""
        self.batch_tokens = len(flight) * max(row.need for row in flight) // 2
        while waiting and waiting[0] in flight:
            waiting.popleft()
        if len(flight) == 1:
            yield flight[0].request, Completion("", "error", len(flight[0].prompt), 0, "out of memory with one row")
        else:
            waiting.extendleft(self._fresh(row.request, row.prompt) for row in reversed(flight))

    def _choose(self, scores: torch.Tensor, rows: list[ActiveRow]) -> list[int]:
        """The next token of each row from scores of shape (rows, vocabulary)."""
        sampling = self.sampling
        if sampling.temperature > 0:
            scores = scores / sampling.temperature
            if sampling.top_k:
                scores = TopKLogitsWarper(sampling.top_k)(None, scores)
            if sampling.top_p < 1:
                scores = TopPLogitsWarper(sampling.top_p)(None, scores)
            # Gumbel(0, 1) = -log(Exponential(1)); drawn on the CPU so that every device draws the same.
            noise = [torch.empty(scores.shape[1]).exponential_(generator=row.generator).log_() for row in rows]
            scores = scores - torch.stack(noise).to(scores.device)
        return scores.argmax(dim=-1).tolist()

    def _advance(self, row: ActiveRow, token: int) -> Completion | None:
        """Adds a token to a row; its completion if that ends it."""
        row.tokens.append(token)
        if token in self.turn_ends:
            return self._complete(row, "stop", decode(self.tokenizer, row.tokens[:-1]))
        if self.sampling.stop_at_answer:
            text = answered(self.tokenizer, row.tokens)
            if text is not None:
                return self._complete(row, "answer", text)
        if len(row.tokens) >= row.request.budget(self.sampling):
            return self._complete(row, "length", decode(self.tokenizer, row.tokens))
        return None

    def _complete(self, row: ActiveRow, reason: str, text: str) -> Completion:
        return Completion(text, reason, len(row.prompt), len(row.tokens))
