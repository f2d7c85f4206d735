"""Tiny text encoders of real architectures, made on the spot: real classes, tokenizers and file layout, random weights."""

import json
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


def write_t5_tokenizer(folder: Path) -> None:
    """Put a tokenizer of T5's own kind, in its files as published, in place of the one in a folder: pieces of WORDS, by their frequency."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False)
    learned.train_from_iterator([WORDS], trainer)
    pieces = json.loads(learned.to_str())["model"]["vocab"]
    T5Tokenizer(vocab=[(piece, score) for piece, score in pieces], extra_ids=10).save_pretrained(folder)


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
