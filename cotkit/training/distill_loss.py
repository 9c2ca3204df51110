"""The loss of the distillation stage: how far the student's distribution over the next token is from the teacher's.

A vocabulary has up to 151,936 entries, so the scores of all tokens of a batch do not fit into memory. `ChunkedLoss` takes
the hidden states of both models, computes scores for some tokens at a time, and keeps only the gradients for the hidden
states, which are smaller by a factor of a hundred.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy, log_softmax

log = logging.getLogger(__name__)

Divergence = Literal["forward", "reverse", "jsd"]

# Scores of one chunk, in entries: 256 MiB in float32. About six tensors of this size exist at once.
CHUNK_ENTRIES = 1 << 26


@dataclass(frozen=True)
class Objective:
    """What is minimised: ``kd_weight * divergence + (1 - kd_weight) * cross entropy``, summed over tokens.

    Attributes:
        kl: ``forward`` is KL(teacher || student), ``reverse`` KL(student || teacher), ``jsd`` the generalised
            Jensen-Shannon divergence of Agarwal et al. 2023 (arXiv:2306.13649, equation 1) with the weight `jsd_beta`.
        kl_clip: the most that one vocabulary entry of one token may contribute to the divergence. Clipped entries have no
            gradient. None does not clip.
        temperature: divides the scores of both sides before the divergence.
        shared_ids: the first so many ids mean the same to both models; both sides are renormalised over them.
    """

    kl: Divergence = "forward"
    jsd_beta: float = 0.5
    kl_clip: float | None = None
    temperature: float = 1.0
    kd_weight: float = 1.0
    shared_ids: int | None = None

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence of each token, of shape (tokens,), from scores of shape (tokens, vocabulary)."""
        ours, theirs = (
            log_softmax(scores[..., : self.shared_ids].float() / self.temperature, dim=-1)
            for scores in (student, teacher)
        )
        if self.kl == "forward":
            entries = theirs.exp() * (theirs - ours)
        elif self.kl == "reverse":
            entries = ours.exp() * (ours - theirs)
        else:
            beta = self.jsd_beta
            middle = torch.logaddexp(theirs + math.log(beta), ours + math.log1p(-beta))
            entries = beta * theirs.exp() * (theirs - middle) + (1 - beta) * ours.exp() * (ours - middle)
        if self.kl_clip is not None:
            entries = entries.clamp(max=self.kl_clip)
        return entries.sum(dim=-1)


class ChunkedLoss:
    """Sums an objective over tokens, some tokens at a time. Out of memory, it halves the chunk and starts again.

    Attributes:
        chunk: tokens whose scores exist at once.
    """

    def __init__(self, objective: Objective, vocabulary: int) -> None:
        self.objective = objective
        self.chunk = max(1, CHUNK_ENTRIES // vocabulary)

    def __call__(
        self, hidden: Tensor, head: Module, targets: Tensor, teacher: Callable[[slice], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(loss, divergence), both summed over the tokens; the loss has a gradient, the divergence has none.

        Args:
            hidden: the student's states from which `head` makes scores, of shape (tokens, width).
            targets: the id of each token, of shape (tokens,).
            teacher: gives the teacher's scores of a slice of the tokens; None for cross entropy alone.
        """
        while True:
            try:
                return self._sums(hidden, head, targets, teacher)
            except torch.OutOfMemoryError:
                if self.chunk == 1:
                    raise
            # Outside of the handler, where the error no longer holds tensors.
            self.chunk //= 2
            torch.cuda.empty_cache()
            log.warning("out of memory: the loss is computed for %d tokens at a time", self.chunk)

    def _sums(
        self, hidden: Tensor, head: Module, targets: Tensor, teacher: Callable[[slice], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        learns = torch.is_grad_enabled() and hidden.requires_grad
        weights = [weight for weight in head.parameters() if weight.requires_grad] if learns else []
        loss, divergence = hidden.new_zeros(2, dtype=torch.float32)
        gradients = [torch.zeros_like(one) for one in (hidden, *weights)] if learns else []
        for start in range(0, len(targets), self.chunk):
            part = slice(start, start + self.chunk)
            states = hidden[part].detach().requires_grad_(learns)
            goal = None if teacher is None else teacher(part)
            with torch.set_grad_enabled(learns):
                piece, diverged = self._piece(head(states), targets[part], goal)
            if learns:
                gradients[0][part], *others = torch.autograd.grad(piece, [states, *weights])
                for gradient, more in zip(gradients[1:], others, strict=True):
                    gradient += more
            loss, divergence = loss + piece.detach(), divergence + diverged.detach()
        # A term of value zero that carries the gradients.
        for one, gradient in zip((hidden, *weights), gradients, strict=False):
            carrier = (one.float() * gradient.float()).sum()
            loss = loss + (carrier - carrier.detach())
        return loss, divergence

    def _piece(self, scores: Tensor, targets: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
        """(loss, divergence) of one chunk."""
        weight = 0.0 if teacher is None else self.objective.kd_weight
        loss = divergence = scores.new_zeros((), dtype=torch.float32)
        if teacher is not None:
            divergence = self.objective.divergence(scores, teacher).sum()
            loss = weight * divergence
        if weight < 1:
            loss = loss + (1 - weight) * cross_entropy(scores.float(), targets, reduction="sum")
        return loss, divergence
