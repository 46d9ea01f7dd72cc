"""What applications import from the package itself."""

import pg_qwen_embed
from pg_qwen_embed.domain import errors


def test_every_error_can_be_imported_from_the_package() -> None:
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert ours <= set(pg_qwen_embed.__all__)


def test_every_name_that_is_promised_is_there_once() -> None:
    assert sorted(set(pg_qwen_embed.__all__)) == sorted(pg_qwen_embed.__all__)
    assert [name for name in pg_qwen_embed.__all__ if not hasattr(pg_qwen_embed, name)] == []
