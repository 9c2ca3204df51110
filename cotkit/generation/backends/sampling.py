"""The next token of every row: the best one, or a draw from the distribution that temperature, top_k and top_p leave.

The distribution is that of transformers' `TemperatureLogitsWarper`, `TopKLogitsWarper` and `TopPLogitsWarper`, applied in
this order. A draw takes one uniform number from the row's own generator and inverts the cumulative distribution. All sums
run over one row alone, so a row's token depends on its scores and its generator, and not on the rows beside it.

Another way to draw makes other texts from the same seeds, so it needs another name in `transformers_backend.sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from cotkit.core.errors import UserError
from cotkit.generation.types import Sampling

# Scores that are handled at once on a CPU. More would leave its cache, which doubles the time.
CACHED_SCORES = 2**19
# Candidates beyond top_k. Scores in bfloat16 are often equal, and all that equal the last of the top_k are kept.
TOP_K_MARGIN = 32
# Candidates for top_p without top_k. A model that knows what to write next keeps fewer.
TOP_P_CANDIDATES = 256


def choose(scores: torch.Tensor, sampling: Sampling, generators: Sequence[torch.Generator | None]) -> list[int]:
    """The next token of each row.

    Args:
        scores: (rows, vocabulary), before the temperature.
        generators: each row's own; greedy decoding reads none.

    Raises:
        UserError: the scores of a row are not numbers.
    """
    if sampling.temperature <= 0:
        best, tokens = scores.max(dim=-1)
        _check_numbers(best)
        return tokens.tolist()
    if scores.device.type == "mps":
        scores = scores.cpu()  # Apple's GPUs have no float64
    # Drawn on the CPU, so that every device draws the same.
    uniform = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    return draw(scores, uniform.to(scores.device), sampling).tolist()


def draw(scores: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The token of each row at which its cumulative distribution exceeds `uniform`, a number in [0, 1) for each row."""
    rows = max(1, CACHED_SCORES // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    candidates = sampling.top_k + TOP_K_MARGIN if sampling.top_k else TOP_P_CANDIDATES
    truncates = sampling.top_k or sampling.top_p < 1
    tokens = []
    for part, numbers in zip(scores.split(rows), uniform.split(rows), strict=True):
        if truncates and candidates < scores.shape[1]:
            tokens.append(_draw_from_best(part, numbers, sampling, candidates))
        else:
            tokens.append(_draw_from_all(part, numbers, sampling))
    return torch.cat(tokens)


def _draw_from_all(scores: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    masses = (scores - scores.amax(dim=-1, keepdim=True)).div_(sampling.temperature)
    if sampling.top_k:
        least = masses.topk(min(sampling.top_k, masses.shape[1]), dim=-1).values[:, -1:]
        masses.masked_fill_(masses < least, -torch.inf)
    masses.exp_()
    _check_numbers(masses[:, 0])
    if sampling.top_p < 1:
        masses = _nucleus(masses, sampling.top_p)
    return _inverse_cdf(masses, uniform)


def _nucleus(masses: torch.Tensor, top_p: float) -> torch.Tensor:
    """The largest masses of each row up to the one that crosses the share `top_p` of its total; all others are 0."""
    if masses.device.type == "cpu":  # numpy sorts numbers alone, which is up to 30 times faster than torch's sort
        falling = torch.from_numpy(numpy.sort(masses.numpy(), axis=-1)).flip(-1)
    else:
        falling = masses.sort(dim=-1, descending=True).values
    number = _kept(falling, top_p).sum(dim=-1, keepdim=True)
    least = falling.gather(1, number - 1)
    larger, equal = masses > least, masses == least
    first = equal & (equal.cumsum(dim=-1) <= number - larger.sum(dim=-1, keepdim=True))  # of equals the first columns
    return masses.masked_fill(~(larger | first), 0)


def _kept(falling: torch.Tensor, top_p: float) -> torch.Tensor:
    """Where, in rows of falling masses, those before have less than the share `top_p`: the one that crosses it is kept."""
    cumulative = falling.cumsum(dim=-1, dtype=torch.float64)
    return cumulative - falling < top_p * cumulative[:, -1:]


def _draw_from_best(scores: torch.Tensor, uniform: torch.Tensor, sampling: Sampling, candidates: int) -> torch.Tensor:
    """Draws from the best `candidates` tokens of each row; from all of them where these prove too few.

    They are enough if the last of them is less probable than every token that is kept: then so are all others.
    """
    if sampling.top_k:
        best, tokens = _largest(scores, candidates)
        best = best / sampling.temperature
        least = best[:, sampling.top_k - 1, None]
        enough = best[:, -1] < least[:, 0]
        masses = best.masked_fill(best < least, -torch.inf).softmax(dim=-1)
        kept = _kept(masses, sampling.top_p)
    else:
        masses, tokens = _largest((scores / sampling.temperature).softmax(dim=-1), candidates)
        kept = masses.cumsum(dim=-1, dtype=torch.float64) - masses < sampling.top_p  # shares of the whole vocabulary
        enough = masses[:, -1] < masses.masked_fill(~kept, torch.inf).amin(dim=-1)
    _check_numbers(masses[:, 0])
    if sampling.top_p < 1:
        masses = masses.masked_fill(~kept, 0)
    drawn = tokens.gather(1, _inverse_cdf(masses, uniform)[:, None]).squeeze(1)
    if len(others := (~enough).nonzero()[:, 0]):
        drawn[others] = _draw_from_all(scores[others], uniform[others], sampling)
    return drawn


def _largest(values: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest values of each row, in falling order, and their columns; of equals the first column comes first.

    `topk` alone may order equals differently if there are more rows.
    """
    values, columns = values.topk(number, dim=-1)
    columns, order = columns.sort(dim=-1)
    values, order = torch.sort(values.gather(1, order), dim=-1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _inverse_cdf(masses: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The column of each row at which its cumulative mass exceeds the share `uniform` of its total."""
    cumulative = masses.cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)


def _check_numbers(values: torch.Tensor) -> None:
    """Raises UserError for NaN. A row with a NaN score has no largest score, and all its masses are NaN."""
    if values.isnan().any():
        raise UserError("the model's scores are not numbers; give --dtype float32, or bfloat16 if that was float16")
