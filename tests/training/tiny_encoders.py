"""Tiny text encoders of real architectures, made on the spot: real classes, tokenizers and file layout, random weights."""

from pathlib import Path
from typing import Any

WIDTH = 32
WORDS = "a man flips a pancake, a person puts on make-up; clouds over mountains, two dogs run along the street at night"
_SIZES = {"vocab_size": 300, "d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_LAYERS = {"vocab_size": 300, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_HALF = {"layers": 1, "attention_heads": 4, "ffn_dim": 48}


def tiny_encoder(folder: Path, family: str = "t5", seed: int = 0) -> Path:
    """Write a checkpoint into `folder` (made) and return it. `family` is t5, umt5 (both with their decoders), bert, bart or llama."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config, model = {
        "t5": (transformers.T5Config(**_SIZES), transformers.T5ForConditionalGeneration),
        "umt5": (transformers.UMT5Config(**_SIZES), transformers.UMT5ForConditionalGeneration),
        "bert": (transformers.BertConfig(**_LAYERS, max_position_embeddings=64), transformers.BertForMaskedLM),  # without a pooler
        "bart": (
            transformers.BartConfig(
                vocab_size=300,
                d_model=WIDTH,
                max_position_embeddings=64,
                **{f"{half}_{name}": size for half in ("encoder", "decoder") for name, size in _HALF.items()},
            ),
            transformers.BartModel,
        ),
        "llama": (transformers.LlamaConfig(**_LAYERS), transformers.LlamaForCausalLM),
    }[family]
    network = model(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)  # so that neighbors and order matter much
    network.save_pretrained(folder)  # safetensors
    _tokenizer(None if family == "llama" else "</s>").save_pretrained(folder)
    return folder


def _tokenizer(end: str | None) -> Any:
    """A byte-level BPE learned from WORDS, which ends a text with `end`, if any: without, an empty text has no token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    learned.train_from_iterator([WORDS], trainer)
    if end:
        learned.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, learned.token_to_id(end))])
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="</s>", pad_token="<pad>")
