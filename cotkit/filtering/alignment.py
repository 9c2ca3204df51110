"""How well kept samples suit the student: the rank-surprisal ratio of Yang et al. 2026 (arXiv:2601.14249).

It is the mean rank of a sample's tokens in the student's distribution, divided by their mean surprisal. A low ratio means
tokens that the student would not write itself, but ranks high: there is something to learn, and it is within reach.

Import this module inside functions: it needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cotkit.core.jsonl import Row, read, write_atomic
from cotkit.core.model_identity import fingerprint
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_model, load_tokenizer

MOST_RANK = 100  # larger ranks count as this one, as in the paper: a few hopeless tokens would decide the mean
LEAST_SURPRISAL = 1e-9  # a text that the student is certain of teaches nothing, so its ratio is large
BATCH_TOKENS = 1024  # of one pass, padding included; the scores of a large vocabulary take 0.6 GB


def rank_surprisal_ratios(student: str, rows: Iterable[Row], cache: Path) -> list[float]:
    """The ratio of each row's target after the student's prompt.

    Args:
        rows: kept rows.
        cache: JSON Lines ``{"id", "sample", "key", "rank", "surprisal"}`` beside the kept rows. What it holds for the same
            student, prompt and target is not computed again; it is replaced by the entries of `rows`.
    """
    identity = fingerprint(student)
    known = {entry["key"]: entry for entry in read(cache)} if cache.is_file() else {}
    entries, missing = [], []
    for row in rows:
        text = "\n".join((identity, prompts.plain_text(prompts.student_messages(row["question"])), row["target"]))
        key = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        entries.append({"id": row["id"], "sample": row["sample"], "key": key})
        if key not in known:
            missing.append((key, row["question"], row["target"]))
    if missing:
        measured = measure(student, [(question, target) for _, question, target in missing])
        for (key, _, _), (rank, surprisal) in zip(missing, measured, strict=True):
            known[key] = {"rank": rank, "surprisal": surprisal}
    found = [{**entry, **{name: known[entry["key"]][name] for name in ("rank", "surprisal")}} for entry in entries]
    write_atomic(cache, found)
    return [entry["rank"] / max(entry["surprisal"], LEAST_SURPRISAL) for entry in found]


def measure(student: str, texts: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
    """(mean rank, mean surprisal in nats) of each target's tokens after its question, by one forward pass."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer, model = load_tokenizer(student), load_model(student, None, dtype, device).eval()
    pairs = [
        (
            encode(tokenizer, prompts.student_messages(question), thinking=False),
            tokenizer(target, add_special_tokens=False)["input_ids"],
        )
        for question, target in texts
    ]
    order = sorted(range(len(pairs)), key=lambda number: sum(map(len, pairs[number])))
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
    for batch in _batches(order, [sum(map(len, pair)) for pair in pairs]):
        for number, result in zip(batch, _measure_batch(model, [pairs[n] for n in batch]), strict=True):
            found[number] = result
    return found


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterable[list[int]]:
    """Rows in order, as many at a time as `BATCH_TOKENS` allows; lengths grow along the order."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[number] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@torch.inference_mode()
def _measure_batch(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, float]]:
    rows = [torch.tensor(prompt + target) for prompt, target in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    scores = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    results = []
    for number, (prompt, target) in enumerate(pairs):
        own = scores[number, len(prompt) - 1 : len(prompt) + len(target) - 1].float()
        of_targets = own.gather(1, torch.tensor(target, device=own.device)[:, None])
        ranks = 1 + (own > of_targets).sum(1)
        surprisals = own.logsumexp(1) - of_targets[:, 0]
        results.append((ranks.clamp(max=MOST_RANK).double().mean().item(), surprisals.double().mean().item()))
    return results
