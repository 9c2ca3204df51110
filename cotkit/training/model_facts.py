"""What a model's files say about training it: its size, its context, the template that fits, and the end of its turns.

Only configuration and tokenizer are read; no weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.model_identity import folder_of
from cotkit.generation import prompts
from cotkit.generation.chat_model import check_model, load_generation_config, load_tokenizer
from cotkit.training.preflight import choose_template


@dataclass(frozen=True)
class StudentFacts:
    """A student on this machine.

    Attributes:
        weights: their number, with tied embeddings once.
        context: tokens that a prompt and its answer can have; None if the configuration does not say.
        template: of LLaMA-Factory.
        reasons: the template has think blocks.
        turn_end: the token that ends an answer in training.
        ends_turns: the model was made to write `turn_end`; False for most base models.
        embeddings: the names of the layers that read and write tokens.
        embedding_weights: the number of weights in these layers, with tied ones twice, as an adapter holds them.
    """

    name: str
    weights: int
    context: int | None
    template: str
    reasons: bool
    turn_end: str
    ends_turns: bool
    embeddings: tuple[str, ...]
    embedding_weights: int


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher on this machine.

    Attributes:
        sampling: `temperature`, `top_p` and `top_k` as far as its generation config sets them.
        weights: their number.
    """

    sampling: dict[str, float]
    weights: int


def read_student(model: str) -> StudentFacts:
    """Raises UserError if the model's files are not on this machine, or no template of LLaMA-Factory fits."""
    from llamafactory.data.template import TEMPLATES, ReasoningTemplate

    check_model(model)
    if folder_of(model) is None:
        raise UserError(
            f"{model}: is not on this machine, and its template and size must be read; get all but its weights with "
            f"`hf download {model} --include '*.json' --include '*.jinja' --include '*.model' --include '*.txt'` and repeat "
            "the command"
        )
    name = choose_template(model)
    tokenizer, config, network = load_tokenizer(model), _config(model), _without_weights(model)
    chat = [*prompts.student_messages("?")[1:], {"role": "assistant", "content": "7"}]
    answer = TEMPLATES[name].encode_oneturn(tokenizer, chat)[1]
    end = next(token for token in reversed(answer) if tokenizer.decode([token]).strip())
    configured = load_generation_config(model).eos_token_id or config.eos_token_id
    layers = {id(layer): path for path, layer in network.named_modules()}
    embeddings = [one for one in (network.get_input_embeddings(), network.get_output_embeddings()) if one is not None]
    return StudentFacts(
        model,
        network.num_parameters(),
        getattr(config, "max_position_embeddings", None),
        name,
        isinstance(TEMPLATES[name], ReasoningTemplate),
        tokenizer.convert_ids_to_tokens(end),
        end in (configured if isinstance(configured, list) else [configured]),
        tuple(layers[id(one)].rpartition(".")[2] for one in embeddings),
        sum(one.weight.numel() for one in embeddings),
    )


def read_teacher(model: str) -> TeacherFacts | None:
    """None if the model's files are not on this machine: it may be on the hub or on a server."""
    check_model(model)
    if folder_of(model) is None:
        return None
    config = load_generation_config(model).to_diff_dict()
    sampling = {key: config[key] for key in ("temperature", "top_p", "top_k") if config.get(key) is not None}
    return TeacherFacts(sampling, _without_weights(model).num_parameters())


def same_ids(student: str, teacher: str) -> bool:
    """Whether their token ids mean the same, so that the student can learn the teacher's distribution."""
    from cotkit.training.distill_data import shared_ids

    try:
        shared_ids(load_tokenizer(student), load_tokenizer(teacher), teacher)
    except UserError:
        return False
    return True


def _config(model: str) -> Any:
    """The configuration of a model's language part."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model).get_text_config()


def _without_weights(model: str) -> Any:
    """The model's layers on the device meta, which takes no memory. Raises UserError if transformers cannot build it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{model}: transformers cannot build it ({str(error).splitlines()[0]})") from None
