"""A tiny Qwen3 with random weights.

    python tests/contract/tiny_model.py FOLDER [WORD ...]

64 dimensions, 2 layers, 512 tokens; about a megabyte. Each word is a token of its own: a reranker answers "yes" or "no"."""

import sys

import cpu  # noqa: F401  # before transformers
import torch
from tiny_tokenizer import END, tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

DIMENSIONS, LAYERS, CONTEXT = 64, 2, 512


def main(folder: str, *words: str) -> None:
    tokens = tokenizer(words=words)
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
    main(*sys.argv[1:])
