"""The places of a running batch: keys and values of the rows in flight, and their attention.

Every row has a place. All rows end at the same column, so one decoding step adds one column for all of them; a row that
enters later is written to the left of that column. A place whose row is done computes on for nothing until another row
takes it or the batch is arranged anew, which copies the whole cache: see `Decoder` for when that pays.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cotkit.generation.types import Request, Sampling

GROWTH_COLUMNS = 64  # added when the last column is full; more of them are more memory, fewer are more copies
ATTENTION = "grouped_sdpa"


class ActiveRow:
    """One request while it is being decoded; `need` is the most tokens that it can come to."""

    def __init__(self, request: Request, prompt: list[int], sampling: Sampling) -> None:
        self.request, self.prompt = request, prompt
        self.need = len(prompt) + request.budget(sampling)
        self.tokens: list[int] = []
        self.generator: torch.Generator | None = None


class _PlaceLayer(DynamicLayer):
    """One model layer's keys and values, each (places, heads, columns, head_dim); `used` columns are filled.

    A step writes into its column, where the library's layer copies the whole cache to append to it.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.used = keys, values, 0
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used


class Slots:
    """The rows in flight; None is a place that is free."""

    def __init__(self) -> None:
        self.rows: list[ActiveRow | None] = []
        self._starts: list[int] = []  # the first column that belongs to each place's row
        self._layers: list[_PlaceLayer] = []
        self._mask = torch.zeros(0, 0, dtype=torch.bool)  # (places, columns): which columns are the row's own

    @property
    def live(self) -> list[ActiveRow]:
        return [row for row in self.rows if row is not None]

    @property
    def used(self) -> int:
        """Columns that are filled."""
        return self._layers[0].used if self._layers else 0

    def put(
        self, rows: list[ActiveRow], cache: DynamicCache, mask: torch.Tensor, sources: list[int], total: int
    ) -> None:
        """Gives places to rows whose prompts have been computed.

        Args:
            cache: their keys and values; row i's are those of its line `sources[i]`.
            mask: (lines of the cache, columns), which columns are no padding.
            total: places to make if there are too few.
        """
        if not self._layers:
            self._begin(cache)
        width = mask.shape[1]
        if self.rows.count(None) < len(rows) or self.used < width:
            self.arrange(max(total, len(self.live) + len(rows)), width)
        free = [place for place, row in enumerate(self.rows) if row is None][: len(rows)]
        to, lines = torch.tensor(free, device=mask.device), torch.tensor(sources, device=mask.device)
        start, end = self.used - width, self.used
        for layer, new in zip(self._layers, cache.layers, strict=True):
            layer.keys[to, :, start:end] = new.keys[lines]
            layer.values[to, :, start:end] = new.values[lines]
        self._mask[to, :end] = False
        self._mask[to, start:end] = mask[lines]
        for place, row in zip(free, rows, strict=True):
            self.rows[place], self._starts[place] = row, start

    def _begin(self, cache: DynamicCache) -> None:
        for layer in cache.layers:
            none = [old.new_zeros(0, old.shape[1], 0, old.shape[3]) for old in (layer.keys, layer.values)]
            self._layers.append(_PlaceLayer(*none))
        self._mask = self._mask.to(cache.layers[0].keys.device)

    def arrange(self, number: int, width: int = 0) -> None:
        """Moves the rows in flight to the first of `number` places and drops columns that none of them needs.

        At least `width` columns are in use afterwards, and there is room for `GROWTH_COLUMNS` more.
        """
        live = [place for place, row in enumerate(self.rows) if row is not None]
        first = min((self._starts[place] for place in live), default=self.used)
        end, kept = self.used, self.used - first
        width = max(width, kept)
        chosen = torch.tensor(live, dtype=torch.long, device=self._mask.device)

        def moved(old: torch.Tensor, columns: int) -> torch.Tensor:
            shape = list(old.shape)
            shape[0], shape[columns] = number, width + GROWTH_COLUMNS
            new = old.new_zeros(shape)  # zeros: a masked column still takes part in a product with 0
            part = old.narrow(columns, first, kept).index_select(0, chosen)
            new.narrow(columns, width - kept, kept)[: len(live)] = part
            return new

        for layer in self._layers:
            layer.keys, layer.values, layer.used = moved(layer.keys, 2), moved(layer.values, 2), width
        self._mask = moved(self._mask, 1)
        free = number - len(live)
        self._starts = [self._starts[place] + width - end for place in live] + [0] * free
        self.rows = [*self.live, *[None] * free]

    def step(self, model: Any) -> torch.Tensor:
        """One more token of every row goes through the model; the scores (rows in flight, vocabulary) for the next."""
        if self.used == self._mask.shape[1]:
            self.arrange(len(self.rows))
        device, used = self._mask.device, self.used
        tokens = [[row.tokens[-1] if row else 0] for row in self.rows]
        positions = [[len(row.prompt) + len(row.tokens) - 1 if row else 0] for row in self.rows]
        self._mask[:, used] = True
        output = model(
            input_ids=torch.tensor(tokens, device=device),
            attention_mask=self._mask[:, : used + 1],
            position_ids=torch.tensor(positions, device=device),
            past_key_values=Cache(layers=self._layers),
            use_cache=True,
            logits_to_keep=1,
        )
        live = [place for place, row in enumerate(self.rows) if row is not None]
        return output.logits[live, -1].float()

    def release(self, row: ActiveRow) -> None:
        """The row is done; its place is free."""
        self.rows[self.rows.index(row)] = None


def use_grouped_attention(model: Any) -> None:
    """Lets a model that uses torch's attention read its cache without copying it for every group of query heads."""
    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


def grouped_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Attention of shape (rows, heads, queries, head_dim) over fewer key heads; returns (rows, queries, heads, head_dim).

    In a decoding step there is one query a head, and the heads of a group read the same keys under the same mask: they
    are as good as several queries of one head. The library repeats keys and values for each of them instead.
    """
    rows, heads, queries, size = query.shape
    if queries > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return output.reshape(rows, 1, heads, size), None
