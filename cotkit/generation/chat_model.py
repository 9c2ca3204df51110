"""What the backends that hold a model themselves share: tokenizer, end-of-turn tokens, end of the answer, adapter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cotkit.core import think_marks
from cotkit.core.errors import UserError
from cotkit.core.files import elsewhere
from cotkit.generation import adapters
from cotkit.generation.prompts import SYSTEM_ROLE_REMEDY, Message, render
from cotkit.generation.types import Completion, Request, Sampling
from cotkit.grading.extraction import answer_line_end

# Any of these ends the model's turn. An adapter is trained to end with <|im_end|>, but a base model's generation config
# knows only <|endoftext|>. <|im_start|> begins a new turn, so everything from there on is runaway text.
PROMPT_END = 16  # tokens at the end of a prompt that may open a thought
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "</s>")

# A text loops if its last LOOP_TOKENS tokens, or more, are LOOP_COPIES or more copies of one run of at most LOOP_RUN tokens.
# docs/GENERATION.md says what was measured with these values.
LOOP_TOKENS, LOOP_COPIES, LOOP_RUN = 64, 3, 128

SYSTEM_PROBE, USER_PROBE = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}


class ActiveRow:
    """One request while it is being decoded; `need` is the most tokens that it can have, prompt included.

    `opened` is the mark of a thought that the prompt leaves open.
    """

    def __init__(self, request: Request, prompt: list[int], sampling: Sampling, opened: str = "") -> None:
        self.request, self.prompt, self.opened = request, prompt, opened
        self.need = len(prompt) + request.budget(sampling)
        self.tokens: list[int] = []
        self.generator: Any = None  # the row's own torch.Generator, where the backend draws the tokens

    @property
    def prefix(self) -> list[int]:
        """The prompt without its last token. Its keys and values are all that the first decoding step needs."""
        return self.prompt[:-1]

    @property
    def last(self) -> int:
        """The token that the next decoding step reads."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    def finished(self, reason: str, text: str) -> Completion:
        return Completion(text, reason, len(self.prompt), len(self.tokens), opened=self.opened)

    def failed(self, error: str) -> Completion:
        return Completion("", "error", len(self.prompt), len(self.tokens), error)

    def too_long(self, limit: str) -> Completion:
        return self.failed(f"prompt of {len(self.prompt)} tokens + max_new_tokens is over {limit}")


def check_model(name: str) -> None:
    """Raises UserError, in a moment, if `name` is neither a model's folder nor looks like a hub name."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: holds no config.json, so it is not a model folder")
    elif name.count("/") != 1 or name.startswith((".", "/")):
        made = "bash scripts/setup.sh makes it; " if "SmolLM2" in name else ""
        raise UserError(f"{name}: no such model folder; {elsewhere(name) or made + 'a hub model is named owner/name'}")


def load_tokenizer(model_name: str) -> Any:
    """The model's tokenizer, padding on the left. Raises UserError if there is none or it has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"{model_name}: has no tokenizer that can be loaded ({str(error).splitlines()[0]})") from None
    if tokenizer.chat_template is None:
        raise UserError(f"{model_name}: its tokenizer has no chat template; add chat_template.jinja to its folder")
    check_template(tokenizer, model_name)
    return tokenizer


def check_template(tokenizer: Any, model_name: str) -> None:
    """Raises UserError if the chat template cannot render a prompt. Some have no system role, which every prompt here has."""
    from jinja2 import TemplateError

    reasons = []
    for messages in ([SYSTEM_PROBE, USER_PROBE], [USER_PROBE]):
        try:
            render(tokenizer, messages, False)
            break
        except TemplateError as error:
            reasons.append(" ".join(str(error).split()))
    if len(reasons) == 1:
        raise UserError(f"{model_name}: its chat template has no system role ({reasons[0]}); {SYSTEM_ROLE_REMEDY}")
    if reasons:
        raise UserError(
            f"{model_name}: its chat template cannot be rendered ({reasons[0]}); correct chat_template.jinja"
        )


def load_generation_config(model_name: str) -> Any:
    """A model's generation config, or the default one: a model need not have one."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model_name)
    except OSError:
        return GenerationConfig()


def encode(tokenizer: Any, messages: list[Message], thinking: bool) -> list[int]:
    """The token ids of a prompt. The chat template writes every control token, so the tokenizer must add none."""
    return tokenizer(render(tokenizer, messages, thinking), add_special_tokens=False)["input_ids"]


def opened_thought(tokenizer: Any, prompt: Sequence[int]) -> str:
    """The mark of a thought that a prompt leaves open at its end, as some chat templates do; "" if there is none."""
    return think_marks.opened_by(tokenizer.decode(prompt[-PROMPT_END:]))


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text exactly as the model wrote it: some tokenizers would remove spaces before punctuation.

    Special tokens are left out, but not those that mark a thought: without them it would read as part of the answer.
    """
    special, kept = _special_ids(tokenizer)
    if kept.intersection(tokens):
        tokens = [token for token in tokens if token in kept or token not in special]
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@lru_cache(maxsize=8)
def _special_ids(tokenizer: Any) -> tuple[frozenset[int], frozenset[int]]:
    """The ids of a tokenizer's special tokens, and of those that mark thoughts."""
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = (i for i, content in special.items() if think_marks.is_part(content, special.values()))
    return frozenset(special), frozenset(kept)


def answered(tokenizer: Any, tokens: Sequence[int], opened: str = "") -> str | None:
    """The text up to the end of its first answer line if the last token may have completed that line; else None.

    An answer line inside a thought does not count, even if the prompt `opened` the thought. A newline completes an answer line, so the whole text is decoded only after a token that holds one.
    """
    if "\n" not in decode(tokenizer, tokens[-1:]):
        return None
    text = decode(tokenizer, tokens)
    end = answer_line_end(opened + text)
    return None if end is None else text[: end - len(opened)]


def looped(tokens: Sequence[int]) -> bool:
    """Whether a text has ended in a loop: its last tokens repeat one run of tokens exactly."""
    for run in range(1, min(LOOP_RUN, len(tokens) // LOOP_COPIES) + 1):
        size = max(LOOP_TOKENS, LOOP_COPIES * run)
        # The first comparison is only for speed: few runs pass it.
        if tokens[-1] == tokens[-1 - run] and size <= len(tokens) and tokens[-size:-run] == tokens[run - size :]:
            return True
    return False


def turn_end_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """The ids of all tokens that end a text: the tokenizer's, the model's own and those of `TURN_ENDS`.

    Where the tokenizer does not call one of these special, it is ordinary text: HTML has a tag `</s>`.
    """
    configured = generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    added = tokenizer.added_tokens_decoder.items()
    ids.update(number for number, token in added if token.special and token.content in TURN_ENDS)
    return ids - {None}


def load_model(model_name: str, adapter: str | None, dtype: Any, device: Any = "cpu") -> Any:
    """The model with the adapter merged into its weights. Raises UserError if it cannot be loaded.

    Weights go from the mapped file straight to a GPU: the ranks of a machine would not fit into its memory together.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if adapter is not None:
        adapters.check_on_model(model_name, Path(adapter))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_name, dtype=dtype, device_map=None if str(device) == "cpu" else {"": device}
        )
    except (OSError, ValueError) as error:
        raise adapters.not_loadable(model_name, error) from None
    if adapter is not None:
        from peft import PeftModel

        model = merge_adapter(PeftModel.from_pretrained(model, adapter))
    return model


def merge_adapter(model: Any) -> Any:
    """A peft model's base model, with the active adapter in its weights.

    Many models use one tensor as embedding and as head. An adapter on one of the two must not change the other, so they
    get a tensor each. Then the configuration says so, since programs that go by it use the embedding for both.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(isinstance(one, BaseTunerLayer) for one in ends):
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    merged = model.merge_and_unload()
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = False
    return merged
