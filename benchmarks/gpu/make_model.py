"""A model of random weights with the shape of a Qwen3-Embedding; nothing is downloaded.

    PYTHON-OF-SGLANG benchmarks/gpu/make_model.py FOLDER --shape 0.6B --device cuda --seed 0

The shapes are those of each model's config.json. The tokenizer is a small one trained here: a text has somewhat more
tokens than with Qwen's. reference.json in the folder has some texts and their vectors, computed by transformers in
32-bit floats; `run.py` compares the server's with them."""

import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests" / "contract"
VOCABULARY = 32_000  # of the tokenizer; the model's own is larger
SHAPES = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072},
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
}
REFERENCE = ("one", "A changed row gets a new vector.", " ".join(f"The sentence of number {n}." for n in range(40)))


def make(folder: str, shape: str, device: str, seed: int) -> None:
    import torch
    from tiny_tokenizer import END, tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokens = tokenizer(VOCABULARY)
    tokens.save_pretrained(folder)
    end = tokens.convert_tokens_to_ids(END)
    config = Qwen3Config(
        **SHAPES[shape], vocab_size=151_669, num_key_value_heads=8, head_dim=128, max_position_embeddings=32_768,
        rope_theta=1e6, tie_word_embeddings=True, eos_token_id=end, bos_token_id=end, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), torch.no_grad():
        model = Qwen3ForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        reference = [_vector(model.float(), tokens, text) for text in REFERENCE]
    found = json.dumps({"texts": REFERENCE, "vectors": reference})
    (Path(folder) / "reference.json").write_text(found, encoding="utf-8")


def _vector(model, tokens, text: str) -> list[float]:
    """As a Qwen3-Embedding does: the last token's hidden state, of length 1."""
    import torch

    given = torch.tensor([tokens(text)["input_ids"]], device=model.device)
    last = model.model(given).last_hidden_state[0, -1]
    return (last / last.norm()).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if wanted.device == "cpu":
        import cpu  # noqa: F401  # before transformers
    make(wanted.folder, wanted.shape, wanted.device, wanted.seed)


if __name__ == "__main__":
    main()
