"""A tokenizer that appends the end token like that of Qwen3-Embedding, made without a download.

On a machine without a GPU, import `cpu` before this."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def tokenizer(vocabulary: int = 2000, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the sources of PyTorch, with at most `vocabulary` tokens. Each word is one of them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = sorted(Path(torch.__file__).parent.glob("*.py"))
    special = [END, "<|im_start|>", "<|im_end|>", *words]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train([str(file) for file in texts], trainer)
    end = made.token_to_id(END)
    appended = processors.TemplateProcessing(single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end)])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), appended])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=END, eos_token="<|im_end|>", padding_side="left")  # noqa: S106
