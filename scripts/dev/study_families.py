"""Compares the decoding loop with the library's `generate` on a tiny random model of every decoder family of transformers.

Reads   nothing: the models are built from transformers' own config classes
Writes  a page with one row per family: | qwen2 | Qwen2ForCausalLM | sdpa | 8, 24 | equal |

    python scripts/dev/study_families.py --output docs/FAMILIES.md
    python scripts/dev/study_families.py --families mistral,gemma3_text --windows 8

A prompt is a list of random token ids, with and without a beginning that all prompts share. Each family completes the prompts
greedily in float32 in batches of 1, 3 and 16, where waiting rows take the slots of finished ones; every token must equal
that of `generate` on the prompt alone. Families with a window are compared with windows shorter than the prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.markdown import Table
from cotkit.generation.backends import families
from cotkit.generation.types import Request, Sampling

BATCHES = (1, 3, 16)
WINDOWS = (8, 24)
PROMPTS = 22  # more than the largest batch, so that rows wait
SHARED_TOKENS = 30  # longer than the largest window
VOCABULARY = 96
HEADER = ["family", "class", "attention", "windows", "result"]

# Sizes of every tiny model; a config takes those that it knows. Large random weights make texts that depend on each token.
SIZES = {
    **dict.fromkeys("vocab_size vocab_size_per_layer_input".split(), VOCABULARY),
    **dict.fromkeys("hidden_size n_embd d_model embedding_size word_embed_proj_dim".split(), 32),
    **dict.fromkeys("intermediate_size ffn_dim d_ff dff n_inner ffn_hidden_size decoder_ffn_dim dim_ff".split(), 48),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size".split(), 16),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers".split(), 4),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads attention_heads".split(), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys("head_dim global_head_dim rotary_dim hidden_size_per_layer_input laurel_rank".split(), 8),
    **dict.fromkeys("kv_lora_rank q_lora_rank".split(), 16),
    **dict.fromkeys("qk_rope_head_dim qk_nope_head_dim v_head_dim".split(), 8),
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_seq_len".split(), 256),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), 4),
    **dict.fromkeys("num_experts_per_tok moe_topk zero_expert_num".split(), 2),
    **dict.fromkeys("n_shared_experts n_group topk_group first_k_dense_replace".split(), 1),
    **dict.fromkeys("initializer_range init_std".split(), 0.3),
    "image_size": 32,
    "patch_size": 16,
    "is_decoder": True,
    "pad_token_id": 0,
}
WINDOW_KEYS = ("sliding_window", "window_size", "local_attention")
HALF = {"layer_types": ["sliding_attention", "full_attention"] * 2}
COMPRESSED = {"num_key_value_heads": 4}  # compressed keys are expanded for every head
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys("cohere2 exaone4 exaone_moe gemma4_text modernbert-decoder olmo3 qwen2 qwen3".split(), HALF),
    **dict.fromkeys("deepseek_v2 deepseek_v3 glm4_moe_lite longcat_flash youtu".split(), COMPRESSED),
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "gemma3n_text": {**HALF, "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {**COMPRESSED, "num_layers": 2, "num_hidden_layers": 4},
    "mpt": {"expansion_ratio": 2},
    "phi4_multimodal": {"vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "roc_bert": dict.fromkeys(
        "pronunciation_vocab_size pronunciation_embed_dim shape_vocab_size shape_embed_dim".split(), 8
    ),
    "smollm3": {**HALF, "no_rope_layers": [1, 0, 1, 0]},
}
REFUSES = {"falcon": ["head_dim"], "gpt_neo": ["num_hidden_layers"]}  # sizes that a config knows but does not take
NOT_BUILT = {"gemma3n": "needs the package timm; its language model is that of gemma3n_text"}


@dataclass(frozen=True)
class Result:
    """What came of a family: the kind of attention, the windows compared, and `equal` or another word with its reason."""

    family: str
    model: str
    attention: str = ""
    windows: str = ""
    text: str = "equal"

    def cells(self) -> list[str]:
        return [self.family, self.model, self.attention, self.windows, self.text]


class NumberTokenizer:
    """A stand-in for a tokenizer: a text is a list of token ids, and no token ends it."""

    eos_token_id = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return messages[0]["content"]

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, tokens))

    def get_vocab(self) -> dict[str, int]:
        return {}


def all_families() -> dict[str, str]:
    """All decoder families that transformers offers, with the class of each."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def default_config(family: str) -> Any:
    """A config of transformers' own defaults; where a family can read in both directions, the decoder."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family]()
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def sizes_of(default: Any, family: str, window: int) -> dict[str, Any]:
    """The small values for the keys that a config has."""
    known = default.to_dict() if default.sub_configs else default
    has = known.__contains__ if isinstance(known, dict) else lambda key: hasattr(known, key)
    wanted = {**SIZES, **dict.fromkeys(WINDOW_KEYS, window), "use_sliding_window": True}
    keys = [key for key in wanted if has(key) and key not in REFUSES.get(family, ())]
    values = {key: wanted[key] for key in keys}
    values |= {key: 1 for key in ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id") if has(key)}
    if family == "modernbert-decoder":
        values["local_attention"] = 2 * window  # both sides together
    return {**values, **SPECIAL.get(family, {})}


def tiny_config(family: str, window: int) -> Any:
    """A config of some 50,000 weights and four layers, every second one windowed where a family can mix them."""
    default = default_config(family)
    values = sizes_of(default, family, window)
    for name in default.sub_configs:
        part = getattr(default, name, None)
        if part is not None and name not in SPECIAL.get(family, {}):
            values[name] = {"model_type": part.model_type, **sizes_of(part, part.model_type, window)}
    return type(default)(**values)


def tiny_model(config: Any) -> Any:
    """A model with random weights, whose texts have no end. Soft-capping needs the eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    attention = {"attn_implementation": "eager"} if families.soft_capped(config) else {}
    model = AutoModelForCausalLM.from_config(config, **attention).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def requests_of(number: int, shared: bool) -> list[Request]:
    """Prompts of 9 to 87 tokens, shared beginning included, and limits of 2 to 12 new ones."""
    import torch

    draw = torch.Generator().manual_seed(5)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    head = ids(SHARED_TOKENS) if shared else []
    requests = []
    for index in range(number):
        prompt = head + ids(9 + index * 37 % 49)
        limit = 12 if index % 5 == 0 else 2 + index * 7 % 6
        requests.append(Request(str(index), 0, [{"role": "user", "content": " ".join(map(str, prompt))}], limit))
    return requests


def expected(model: Any, request: Request) -> str:
    """What `generate` writes for a prompt alone."""
    import torch

    ids = torch.tensor([NumberTokenizer()(request.messages[0]["content"])["input_ids"]])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_new_tokens, do_sample=False
        )
    return NumberTokenizer().decode(output[0, ids.shape[1] :].tolist())


def differences(model: Any, number: int = PROMPTS) -> list[str]:
    """One line for every batch size, with and without a shared beginning, in which texts differ from those of `generate`."""
    from cotkit.generation.backends.continuous_batching import Decoder

    sampling = Sampling(12, stop_at_answer=False)
    groups = {shared: requests_of(number, shared) for shared in (False, True)}
    texts = {shared: [expected(model, request) for request in group] for shared, group in groups.items()}
    lines = []
    for shared, group in groups.items():
        for batch in BATCHES:
            decoder = Decoder(model, NumberTokenizer(), sampling, batch, 1 << 20, 0)
            found = {int(request.id): completion.text for request, completion in decoder.generate(group)}
            wrong = sum(found[index] != text for index, text in enumerate(texts[shared]))
            if wrong:
                lines.append(f"{wrong} of {number} texts at batch {batch}{', shared beginning' if shared else ''}")
    return lines


def is_windowed(family: str) -> bool:
    text = default_config(family).get_text_config()
    return any(hasattr(text, key) for key in WINDOW_KEYS)


def refusal(family: str) -> str | None:
    """Why the decoding loop refuses a family; the config of the tiny model is asked too, since it can have other layers."""
    if family in families.EXCEPTIONS:
        return families.EXCEPTIONS[family]
    return families.refusal(default_config(family)) or families.refusal(tiny_config(family, WINDOWS[0]))


def study(family: str, windows: Sequence[int] = WINDOWS, number: int = PROMPTS) -> Result:
    """Compares a family, or says why it is refused or was not built."""
    name = all_families()[family]
    if family in NOT_BUILT:
        return Result(family, name, text=f"not compared: {NOT_BUILT[family]}")
    if reason := refusal(family):
        return Result(family, name, text=f"refused: {reason}")
    lines, attention, windowed = [], "", is_windowed(family)
    for window in windows if windowed else windows[:1]:
        model = tiny_model(tiny_config(family, window))
        attention = model.config._attn_implementation
        lines += [f"{line}, window {window}" if windowed else line for line in differences(model, number)]
    shown = ", ".join(map(str, windows)) if windowed else ""
    return Result(family, name, attention, shown, "; ".join(lines) or "equal")


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__)
    study = parser.add_argument_group("study")
    study.add_argument("--output", type=Path, metavar="FILE", help="the page to write (default: print the table)")
    study.add_argument("--families", metavar="A,B", help="some of the families (default: all)")
    study.add_argument("--windows", metavar="N,N", default=",".join(map(str, WINDOWS)), help="default %(default)s")
    study.add_argument("--prompts", type=cli.positive_int, default=PROMPTS, metavar="N", help="default %(default)s")
    return parser


PAGE = """# Decoder families

`--backend transformers` runs the decoders below. `scripts/dev/study_families.py` compared them with `generate` of transformers
{version} and writes this page. Each family is a random model of four layers in float32, with {prompts} prompts of 9 to 87 tokens,
once without and once with a beginning that all prompts share. Batches of 1, 3 and 16 rows write 2 to 12 tokens per prompt,
greedily, and waiting rows take the slots of finished ones. `equal`: every token is that of `generate` on the prompt alone.
A family with sliding windows was compared with each of the windows in the table, which are shorter than most prompts.

Of {all} families {equal} are equal. {refused} are refused before any weights are loaded; they need `--backend vllm`, or
`--backend openai` with a server that runs them. A model with soft-capped attention scores runs with the eager attention, as
torch's own attention ignores the cap. A model with long-rope is run up to the length at which its rope switches; longer rows
fail with this reason. The rules are in `cotkit/generation/backends/families.py`.

{table}
"""


def page(results: Sequence[Result], prompts: int) -> str:
    """The page: how the families were compared, then a row for each."""
    import transformers

    return PAGE.format(
        version=transformers.__version__,
        prompts=prompts,
        all=len(results),
        equal=sum(result.text == "equal" for result in results),
        refused=sum(result.text.startswith("refused") for result in results),
        table="\n".join(Table(HEADER, [result.cells() for result in results]).lines()),
    )


def chosen_families(text: str | None) -> list[str]:
    """The families of a comma-separated list, by default all. Raises UserError for one that transformers does not offer."""
    known = sorted(all_families())
    chosen = text.split(",") if text else known
    for family in chosen:
        if family not in known:
            raise UserError(f"--families: transformers has no decoder family {family!r}{cli.nearest(family, known)}")
    return chosen


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    import transformers

    transformers.logging.set_verbosity_error()
    windows, results = [int(window) for window in args.windows.split(",")], []
    for family in chosen_families(args.families):
        results.append(study(family, windows, args.prompts))
        print(f"{family}: {results[-1].text}", file=sys.stderr, flush=True)
    if args.output:
        args.output.write_text(page(results, args.prompts), encoding="utf-8")
    else:
        print(page(results, args.prompts))
    return int(any(result.text[0].isdigit() for result in results))


if __name__ == "__main__":
    sys.exit(cli.run(main))
