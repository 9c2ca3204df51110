"""The KV cache and attention mask of a running batch, one slot per row.

All rows end at the same column, so one decoding step adds one column for all of them; a row that enters later is written
to the left of that column. A row's columns have no gap, so two of its tokens are as many columns apart as positions: windows
and biases that count columns are right for every row. A slot whose row is finished stays idle, but is still computed, until another row takes it or
the batch is rearranged, which copies the whole cache. `Decoder` decides when that is worth it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cotkit.generation.backends.families import soft_capped
from cotkit.generation.chat_model import ActiveRow

GROWTH_COLUMNS = 64  # added when the last column is full: more columns cost memory, fewer cost copies
ATTENTION = "grouped_sdpa"


class _SlotLayer(DynamicLayer):
    """Keys and values of one model layer, each (slots, heads, columns, head_dim); `used` columns are filled.

    A step writes into its column. The library's layer copies the whole cache to append to it.
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
    """The rows in flight; None is a free slot.

    Args:
        context: the most columns, which is the most tokens of a row. Some models have biases for so many columns only.
    """

    def __init__(self, context: int) -> None:
        self.context = context
        self.rows: list[ActiveRow | None] = []
        self._starts: list[int] = []  # the first column of each slot's row
        self._layers: list[_SlotLayer] = []
        self._mask = torch.zeros(0, 0, dtype=torch.bool)  # (slots, columns): True where a column belongs to the row

    @property
    def live(self) -> list[ActiveRow]:
        return [row for row in self.rows if row is not None]

    @property
    def _live_slots(self) -> list[int]:
        return [slot for slot, row in enumerate(self.rows) if row is not None]

    @property
    def used(self) -> int:
        """Number of filled columns."""
        return self._layers[0].used if self._layers else 0

    def put(self, rows: list[ActiveRow], cache: DynamicCache, sources: list[int], total: int) -> None:
        """Gives slots to rows after their prefill, so that each ends at the last used column, with no column left out.

        Args:
            cache: keys and values of the prefill, from column 0 on; row i's are in its line `sources[i]`.
            total: number of slots to make if there are too few.
        """
        if not self._layers:
            for layer in cache.layers:
                empty = [old.new_zeros(0, old.shape[1], 0, old.shape[3]) for old in (layer.keys, layer.values)]
                self._layers.append(_SlotLayer(*empty))
            self._mask = self._mask.to(cache.layers[0].keys.device)
        lengths = [len(row.prefix) for row in rows]
        width = max(lengths)
        if self.rows.count(None) < len(rows) or self.used < width:
            self.arrange(max(total, len(self.live) + len(rows)), width)
        free = [slot for slot, row in enumerate(self.rows) if row is None][: len(rows)]
        device, start, end = self._mask.device, self.used - width, self.used
        to, lines = torch.tensor(free, device=device), torch.tensor(sources, device=device)[:, None]
        columns = torch.arange(width, device=device) - width + torch.tensor(lengths, device=device)[:, None]
        taken = columns.clamp(min=0)  # a column before the row's first is masked, but must hold a finite number
        for layer, new in zip(self._layers, cache.layers, strict=True):
            layer.keys[to, :, start:end] = new.keys[lines, :, taken].transpose(1, 2)
            layer.values[to, :, start:end] = new.values[lines, :, taken].transpose(1, 2)
        self._mask[to, :end] = False
        self._mask[to, start:end] = columns >= 0
        for slot, row in zip(free, rows, strict=True):
            self.rows[slot], self._starts[slot] = row, self.used - len(row.prefix)

    def arrange(self, number: int, width: int = 0) -> None:
        """Moves the rows in flight to the first of `number` slots and drops columns that none of them needs.

        Afterwards at least `width` columns are in use, and `GROWTH_COLUMNS` more are free, if the context allows.
        """
        live = self._live_slots
        first = min((self._starts[slot] for slot in live), default=self.used)
        end, kept = self.used, self.used - first
        width = max(width, kept)
        chosen = torch.tensor(live, dtype=torch.long, device=self._mask.device)

        def moved(old: torch.Tensor, columns: int) -> torch.Tensor:
            shape = list(old.shape)
            shape[0], shape[columns] = number, min(width + GROWTH_COLUMNS, self.context)
            new = old.new_zeros(shape)  # zeros, because a masked column is still multiplied by 0
            part = old.narrow(columns, first, kept).index_select(0, chosen)
            new.narrow(columns, width - kept, kept)[: len(live)] = part
            return new

        for layer in self._layers:
            layer.keys, layer.values, layer.used = moved(layer.keys, 2), moved(layer.values, 2), width
        self._mask = moved(self._mask, 1)
        free = number - len(live)
        self._starts = [self._starts[slot] + width - end for slot in live] + [0] * free
        self.rows = [*self.live, *[None] * free]

    def step(self, model: Any) -> torch.Tensor:
        """Runs the model on the last token of every row; returns the next token's scores (rows in flight, vocabulary)."""
        if self.used == self._mask.shape[1]:
            self.arrange(len(self.rows))
        device, used = self._mask.device, self.used
        tokens = [[row.last if row else 0] for row in self.rows]
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
        return output.logits[self._live_slots, -1].float()

    def release(self, row: ActiveRow) -> None:
        """Frees the slot of a finished row."""
        self.rows[self.rows.index(row)] = None


def extend(model: Any, cache: DynamicCache, tokens: list[list[int]], start: int) -> None:
    """Adds the keys and values of tokens (rows, columns) to a cache that holds `start` columns of every row."""
    device, end = model.device, start + len(tokens[0])
    model(
        input_ids=torch.tensor(tokens, device=device),
        attention_mask=torch.ones(len(tokens), end, dtype=torch.long, device=device),
        position_ids=torch.arange(start, end, device=device).expand(len(tokens), -1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,  # scores are not used here, and cost the more the larger the vocabulary
    )


def token_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token. They are measured: layers can share them, or have them compressed."""
    cache = DynamicCache()
    with torch.inference_mode():
        extend(model, cache, [[0]], 0)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def set_attention(model: Any) -> None:
    """Chooses an attention that computes what the config says.

    Torch's attention knows no soft-capping and would ignore it. Where there is none, a variant of torch's attention reads
    the cache without a copy for every group of query heads.
    """
    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    if soft_capped(model.config):
        model.set_attn_implementation("eager")
    elif model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


def grouped_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Attention of shape (rows, heads, queries, head_dim) over fewer key heads; returns (rows, queries, heads, head_dim).

    In a decoding step each head has one query, and the heads of a group read the same keys under the same mask. So they are
    computed as several queries of one head. The library would repeat keys and values for each of them.
    """
    rows, heads, queries, size = query.shape
    if queries > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return output.reshape(rows, 1, heads, size), None
