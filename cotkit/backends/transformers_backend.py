"""Hugging Face transformers: batched decoding on CPU, CUDA or MPS, where rows that are done leave the batch.

`model.generate` runs a batch until its longest row ends; here a finished row is handed out and dropped from the cache
at once, its text goes to the disk, and the remaining rows get the machine. Sampling adds Gumbel noise from a generator
of the row's own to its scores and takes the largest, which is a draw from the softmax; so a row's text depends on its
own seed and not on its neighbours. What all prompts begin with (system prompt, worked example) is computed once.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

from cotkit.backends.local_model import answered, decode, encode, load_model, load_tokenizer, preview, turn_end_ids
from cotkit.files import DataError
from cotkit.generate import Completion, Request, Sampling

__all__ = ["TransformersBackend", "load", "preview"]

# A shared beginning of fewer tokens is not worth a cache of its own.
MIN_SHARED_TOKENS = 16


def pick_device(wanted: str) -> str:
    """The torch device: `auto` is this rank's GPU, else Apple's, else the CPU."""
    import torch

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if wanted == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"--device {wanted}: not on this machine ({str(error).splitlines()[0]})") from None
    return wanted


def load(args: argparse.Namespace, model_name: str, adapter: str | None, sampling: Sampling) -> TransformersBackend:
    """Loads a model, merges the adapter into it, and puts it on the device. Raises DataError if there is no such model."""
    import torch

    device = pick_device(args.device)
    dtype: Any = "auto" if args.dtype == "auto" else getattr(torch, args.dtype)
    if device == "cpu" and args.dtype == "auto":
        dtype = torch.float32
    tokenizer = load_tokenizer(model_name)
    model = load_model(model_name, adapter, dtype)
    return TransformersBackend(model.to(device).eval(), tokenizer, sampling, args.batch_size, args.seed)


class _Row:
    """One request while it is being decoded."""

    def __init__(self, request: Request, prompt: list[int]) -> None:
        self.request = request
        self.prompt = prompt
        self.tokens: list[int] = []
        self.generator: Any = None


class TransformersBackend:
    """See the module's text. Made by `load`."""

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling, batch_size: int, seed: int) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.batch_size, self.seed = batch_size, seed
        self.turn_ends = turn_end_ids(tokenizer, model.generation_config)
        self.context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self._shared: list[int] = []  # the tokens that all prompts begin with, and their keys and values
        self._shared_cache: Any = None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        rows = []
        for request in requests:
            rows.append(_Row(request, encode(self.tokenizer, request.messages, self.sampling.thinking)))
        # The longest first: neighbours of like length need little padding, and memory trouble shows at once.
        rows.sort(key=lambda row: (-len(row.prompt), row.request.key))
        self._share_beginning([row.prompt for row in rows])
        for start in range(0, len(rows), self.batch_size):
            batch = []
            for row in rows[start : start + self.batch_size]:
                if len(row.prompt) + row.request.budget(self.sampling) > self.context:
                    yield row.request, self._too_long(row)
                else:
                    batch.append(row)
            yield from self._decode_or_halve(batch)

    def _share_beginning(self, prompts: list[list[int]]) -> None:
        """Computes the common beginning of all prompts once; batches start from a copy of its cache."""
        import torch
        from transformers import DynamicCache

        common = os.path.commonprefix(prompts)  # works on any sequences
        longest = min(len(common), min(map(len, prompts)) - 1)  # every row keeps a token of its own to go on from
        if len(prompts) < 2 or longest < MIN_SHARED_TOKENS:
            return
        self._shared = common[:longest]
        self._shared_cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            ids = torch.tensor([self._shared], device=self.model.device)
            self.model(input_ids=ids, past_key_values=self._shared_cache, use_cache=True, logits_to_keep=1)

    def _begin(self, rows: list[_Row]) -> tuple[Any, Any, Any]:
        """(cache, tokens, mask) of a batch: after the shared beginning each row is padded on the left."""
        import torch
        from transformers import DynamicCache

        shared = len(self._shared)
        width = max(len(row.prompt) for row in rows)
        pads = [width - len(row.prompt) for row in rows]
        own = [[0] * pad + row.prompt[shared:] for pad, row in zip(pads, rows, strict=True)]
        mask = [[1] * shared + [0] * pad + [1] * (width - shared - pad) for pad in pads]
        if self._shared_cache is None:
            cache = DynamicCache(config=self.model.config)
        else:
            cache = copy.deepcopy(self._shared_cache)
            cache.batch_repeat_interleave(len(rows))
        device = self.model.device
        return cache, torch.tensor(own, device=device), torch.tensor(mask, device=device)

    def _too_long(self, row: _Row) -> Completion:
        error = f"prompt of {len(row.prompt)} tokens + max_new_tokens is over the model's context of {self.context}"
        return Completion("", "error", len(row.prompt), 0, error)

    def _decode_or_halve(self, batch: list[_Row]) -> Iterator[tuple[Request, Completion]]:
        """Decodes; when memory runs out, what is left is done again in two halves."""
        import torch

        finished: set[tuple[str, int]] = set()
        try:
            for request, completion in self._decode(batch):
                finished.add(request.key)
                yield request, completion
            return
        except torch.OutOfMemoryError:
            left = [_Row(row.request, row.prompt) for row in batch if row.request.key not in finished]
        if len(left) == 1 and len(batch) == 1:
            yield left[0].request, Completion("", "error", len(left[0].prompt), 0, "out of memory with one row")
            return
        torch.cuda.empty_cache()
        middle = (len(left) + 1) // 2
        yield from self._decode_or_halve(left[:middle])
        yield from self._decode_or_halve(left[middle:])

    def _decode(self, rows: list[_Row]) -> Iterator[tuple[Request, Completion]]:
        """Decodes a left-padded batch token by token; finished rows are yielded and leave the batch."""
        import torch

        if not rows:
            return
        cache, tokens, mask = self._begin(rows)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, len(self._shared) :]
        if self.sampling.temperature > 0:
            for row in rows:
                row.generator = torch.Generator().manual_seed(row.request.seed(self.seed))
        while rows:
            with torch.inference_mode():
                output = self.model(
                    input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache,
                    use_cache=True, logits_to_keep=1,
                )  # fmt: skip
                chosen = self._choose(output.logits[:, -1].float(), rows)
            keep = []
            for index, (row, token) in enumerate(zip(rows, chosen, strict=True)):
                completion = self._advance(row, token)
                if completion is None:
                    keep.append(index)
                else:
                    yield row.request, completion
            if len(keep) < len(rows):
                rows = [rows[index] for index in keep]
                if not rows:
                    return
                selected = torch.tensor(keep, device=mask.device)
                cache.batch_select_indices(selected)
                mask, positions = mask[selected], positions[selected]
            tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=mask.device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
            positions = positions[:, -1:] + 1

    def _choose(self, scores: Any, rows: list[_Row]) -> list[int]:
        """The next token of each row from scores of shape (rows, vocabulary)."""
        import torch
        from transformers import TopKLogitsWarper, TopPLogitsWarper

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

    def _advance(self, row: _Row, token: int) -> Completion | None:
        """Adds a token to a row; its completion if that ends it."""
        row.tokens.append(token)
        if token in self.turn_ends:
            return self._complete(row, "stop", self._text(row.tokens[:-1]))
        if self.sampling.stop_at_answer:
            text = answered(self.tokenizer, row.tokens)
            if text is not None:
                return self._complete(row, "answer", text)
        if len(row.tokens) >= row.request.budget(self.sampling):
            return self._complete(row, "length", self._text(row.tokens))
        return None

    def _text(self, tokens: list[int]) -> str:
        return decode(self.tokenizer, tokens)

    def _complete(self, row: _Row, reason: str, text: str) -> Completion:
        return Completion(text, reason, len(row.prompt), len(row.tokens))
