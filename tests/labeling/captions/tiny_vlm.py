"""Tiny vision-language models of real architectures, made on the spot, and `transformers serve` to serve them.

No checkpoint of a VLM comes with the tests. These have the real classes, processors, tokenizers and file layout of two families; their
weights are random, or set so that they say one given text.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HIDDEN = 64
IMAGE = 56  # pixels: side of what the vision tower sees
PATCH = 14  # (IMAGE / PATCH / 2)² = 4 tokens a picture
SEED = 7
QUOTE = 4.0  # how much more likely than other tokens the end of a JSON text is in random models: it comes after some ten tokens
WORDS = """{"caption_short":"a man walks","caption_medium":"a woman in a red coat walks along the street","caption_dense":"two dogs run",
"subject":"dog","action":"running","scene":"a park in the evening","camera":"the camera pans left","style":"film","lighting":"soft light"}
Describe the video clip shown by these frames. Answer with one JSON object. System User Assistant Duration seconds
text on screen camera motion The answer was wrong: say it again. 描述 这 段 视频 一个人 走路 镜头 静止"""

# Both write a conversation as the families do; content is a list of parts, or a text.
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    "{% if message.content is string %} {{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{% if loop.first %} {% endif %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOLVLM_TOKENS = ("<|im_start|>", "<end_of_utterance>", "<|pad|>", "<fake_token_around_image>", "<image>", "<global-img>")
_QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def tiny_vlm(folder: Path, family: str = "smolvlm", says: str | None = None) -> Path:
    """Write a checkpoint into `folder` (made) and return it. `family` is smolvlm (the Idefics3 architecture) or qwen2.5-vl.

    Without `says` the weights are random, of a kind that ends a JSON text after some words; the pictures and the prompt matter. With it
    the model answers with exactly this text and stops, whatever it is shown, at any usual temperature.
    """
    import torch

    torch.manual_seed(SEED)
    processor, network = {"smolvlm": _smolvlm, "qwen2.5-vl": _qwen}[family](says)
    end = processor.tokenizer.eos_token_id
    network.generation_config.eos_token_id = end
    network.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    _set_weights(network, processor.tokenizer, says)
    network.save_pretrained(folder)  # safetensors
    processor.save_pretrained(folder)
    return folder


def _smolvlm(says: str | None) -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    tokenizer = _tokenizer(_SMOLVLM_TOKENS, "<end_of_utterance>", "<|pad|>", says)
    images = Idefics3ImageProcessor(size={"longest_edge": IMAGE}, max_image_size={"longest_edge": IMAGE}, do_image_splitting=False)
    processor = Idefics3Processor(images, tokenizer, image_seq_len=(IMAGE // PATCH // 2) ** 2, chat_template=_SMOLVLM_TEMPLATE)
    text = _text_sizes(tokenizer) | {"model_type": "llama"}
    vision = {"hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Idefics3Config(
        text_config=text,
        vision_config=vision | {"image_size": IMAGE, "patch_size": PATCH},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return processor, Idefics3ForConditionalGeneration(config)


def _qwen(says: str | None) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers import Qwen2VLVideoProcessor as VideoProcessor

    tokenizer = _tokenizer(_QWEN_TOKENS, "<|im_end|>", "<|endoftext|>", says)
    size = {"shortest_edge": IMAGE**2 // 4, "longest_edge": IMAGE**2}  # pixels in all
    processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(size=size), tokenizer, VideoProcessor(size=size), chat_template=_QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": HIDDEN, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": HIDDEN, "patch_size": PATCH}
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
        )
    }
    config = Qwen2_5_VLConfig(
        text_config=_text_sizes(tokenizer) | {"rope_parameters": rope},
        vision_config=vision | {"fullatt_block_indexes": [0]},
        tie_word_embeddings=False,
        **ids,
    )
    return processor, Qwen2_5_VLForConditionalGeneration(config)


def _text_sizes(tokenizer: Any) -> dict[str, Any]:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192}
    sizes = {"vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 128, "tie_word_embeddings": False}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return layers | sizes | special


def _tokenizer(special: tuple[str, ...], end: str, pad: str, says: str | None) -> Any:
    """A byte-level BPE of a few hundred tokens, learned from WORDS; `says` is one more token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    extra = [token for token in special if token not in (end, pad)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, eos_token=end, pad_token=pad, additional_special_tokens=extra)
    tokenizer.padding_side = "right"  # as many checkpoints have it: who generates must set it
    if says is not None:
        tokenizer.add_tokens([AddedToken(says, normalized=False, special=False)])
        if tokenizer.decode(tokenizer.encode(says, add_special_tokens=False)) != says:
            raise ValueError(f"the tokenizer cannot give back {says!r}")
    return tokenizer


def _set_weights(network: Any, tokenizer: Any, says: str | None) -> None:
    """Embeddings of length 1 a number, so that the final hidden state of a token is near its embedding while the blocks are weak.

    All embeddings share a direction, in which the head of the quotation mark lies: it becomes likely everywhere, and texts end. With
    `says` the head answers the last token of every prompt with the text, and the text with the end.
    """
    import torch

    with torch.no_grad():
        embeddings, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
        embeddings.normal_()
        if says is None:
            for name, weight in network.named_parameters():
                if weight.ndim == 2 and "layers" in name:
                    weight.normal_(std=0.12)  # the blocks matter
            embeddings[:, 0] += 4
            head.normal_(std=0.5)
            head[tokenizer.convert_tokens_to_ids('"'), 0] = QUOTE
            return
        text, end = tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id
        last = tokenizer.encode("<|im_start|>assistant\n" if "<|im_end|>" in tokenizer.get_vocab() else "Assistant:")[-1]
        head.zero_()
        head[text] = embeddings[last]  # scores about HIDDEN there, and about its root elsewhere
        head[end] = embeddings[text]


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """Run `transformers serve` for a checkpoint on a free loopback port; gives the base URL of its API. `log` gets what it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "info"]
    cache = log.with_name("hub")  # the server's list of models is what lies in the cache; without one it answers 500
    cache.mkdir(exist_ok=True)
    settings = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=settings, start_new_session=True)
    try:
        _await_health(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _await_health(server: "subprocess.Popen[bytes]", url: str, log: Path, limit_s: float = 180) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")
