"""A spec as the registry keeps it: what is written is read, and what older releases wrote is read too."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain import template
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState
from pg_qwen_embed.domain.index import parse
from pg_qwen_embed.domain.prompt import PromptStyle
from pg_qwen_embed.domain.source import QualifiedName, Source
from pg_qwen_embed.domain.spec import Chunking, Distance, Layout, Spec, StoreKind, TooLong

specs = st.builds(
    Spec,
    model=st.text(max_size=20),
    dimensions=st.integers(1, 4000),
    template=st.sampled_from([template.from_columns(("a", "b")), template.parse("{a}: {b}")]),
    distance=st.sampled_from(Distance),
    store=st.sampled_from(StoreKind),
    too_long=st.sampled_from(TooLong),
    chunking=st.none() | st.builds(Chunking, st.integers(16, 1000), st.integers(0, 100)),
    weight_version=st.none() | st.text(max_size=5),
    full_dimensions=st.none() | st.integers(1, 8000),
    prompt_style=st.sampled_from(PromptStyle),
    comment=st.text(max_size=20),
    index=st.sampled_from(
        ["hnsw", "hnsw:m=24,ef_construction=128", "hnsw-binary", "hnsw-prefix:512,m=8", "ivfflat", "none"]
    ).map(parse),
)


@given(specs)
def test_what_is_written_to_the_registry_is_read_back(spec: Spec) -> None:
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_property_that_was_not_written_has_its_default() -> None:
    written = {"model": "m", "dimensions": 8, "template": template.from_columns(("a",)).to_json()}
    assert Spec.from_json(written) == Spec("m", 8, template.from_columns(("a",)))


def test_a_property_that_nobody_knows_is_an_error() -> None:
    written = Spec("m", 8, template.from_columns(("a",))).to_json() | {"colour": "red"}
    with pytest.raises(TypeError):
        Spec.from_json(written)


@pytest.mark.parametrize(
    ("store", "chunking", "layout"),
    [
        (StoreKind.TABLE, None, Layout.TABLE),
        (StoreKind.COLUMN, None, Layout.COLUMN),
        (StoreKind.TABLE, Chunking(64), Layout.CHUNKED),
    ],
)
def test_the_layout_follows_from_the_spec(store: StoreKind, chunking: Chunking | None, layout: Layout) -> None:
    spec = Spec("m", 8, template.from_columns(("a",)), store=store, chunking=chunking)
    assert Generation(1, GenerationState.LIVE, spec).layout is layout


def test_an_embedding_names_every_generation_that_is_followed_the_live_one_first() -> None:
    spec = Spec("m", 8, template.from_columns(("a",)))
    retired, live, building = (Generation(n, state, spec) for n, state in enumerate(
        (GenerationState.RETIRED, GenerationState.LIVE, GenerationState.BUILDING), 1))  # fmt: skip
    embedding = Embedding("e", Source(QualifiedName("s", "t"), (), ()), "", live, building, (retired,))
    assert [target.id for target in embedding.targets] == [2, 3, 1]
    assert embedding.target.generation is live
