"""A tiny Qwen3 with random weights, and a tokenizer that appends the end token as that of Qwen3-Embedding does.

    python tests/sglang/tiny_model.py FOLDER

64 dimensions, 2 layers, 512 tokens; about a megabyte."""

import sys
from pathlib import Path

import cpu  # noqa: F401  # before transformers
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

DIMENSIONS, LAYERS, CONTEXT = 64, 2, 512
END = "<|endoftext|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on Python's own library."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = sorted(Path(torch.__file__).parent.glob("*.py"))
    special = [END, "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train([str(file) for file in texts], trainer)
    end = made.token_to_id(END)
    appended = processors.TemplateProcessing(single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end)])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), appended])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=END, eos_token="<|im_end|>", padding_side="left")  # noqa: S106


def main(folder: str) -> None:
    tokens = tokenizer()
    tokens.save_pretrained(folder)
    torch.manual_seed(0)
    end = tokens.convert_tokens_to_ids(END)
    config = Qwen3Config(
        vocab_size=len(tokens), hidden_size=DIMENSIONS, intermediate_size=3 * DIMENSIONS, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, eos_token_id=end, bos_token_id=end,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
