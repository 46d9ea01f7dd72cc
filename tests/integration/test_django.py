"""The Django project: its migrations make its embeddings, its models are searched, and its own tests run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import examples
import pytest
from harness import Harness, both_versions, eventually
from psycopg.conninfo import conninfo_to_dict
from text_queries import can_be_asked

PROJECT = Path(__file__).parents[1] / "applications" / "django_app"


@pytest.fixture(autouse=True)
def _model(bare: Harness) -> None:
    """The server has the model that the migrations name."""
    bare.server.model, bare.server.dimensions = "Qwen/Qwen3-Embedding-0.6B", 128


def manage(
    harness: Harness,
    *arguments: str,
    code: str | None = None,
    project: Path = PROJECT,
    app: str = "recipes",
    server_url: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command of the project, in a process of its own; code: for `manage.py shell`."""
    parts = conninfo_to_dict(harness.url)
    names = {"dbname": "PGDATABASE", "host": "PGHOST", "user": "PGUSER", "port": "PGPORT"}
    variables = {names[k]: str(v) for k, v in parts.items() if k in names} | {"PYTHONWARNINGS": "error"}
    variables |= {"PG_QWEN_EMBED_SERVER_URL": server_url or harness.server.url, "APP": app}
    given = ["shell", "--no-imports", "-c", code] if code else [*arguments]
    return subprocess.run(
        [sys.executable, "manage.py", *given], cwd=project, env=os.environ | variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def ok(harness: Harness, *arguments: str, code: str | None = None) -> str:
    done = manage(harness, *arguments, code=code)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill(harness: Harness, rows: int = 4) -> None:
    harness.execute(
        "INSERT INTO recipes_recipe (id, title, likes) SELECT n, 'dish ' || n, n FROM generate_series(1, %s) n", rows
    )


SEARCH = """
from recipes.models import Recipe, Step
for recipe in Recipe.search({query}).filter(likes__gt=1)[:2]:
    print(recipe.title, round(recipe.distance, 3))
"""


@both_versions
@pytest.mark.long
def test_migrations_make_the_embeddings_and_a_worker_fills_them(bare: Harness) -> None:
    ok(bare, "migrate")
    fill(bare)
    bare.worker()
    for name in ("recipes_recipe", "steps of 100%"):
        eventually(lambda name=name: bare.settled(name))
    bare.assert_in_step("title", "recipes_recipe")
    assert bare.embedding("recipes_recipe").instruction == "Find a dish that fits"
    can_be_asked(bare, "recipes_recipe")
    query = bare.server.vector("Instruct: Find a dish that fits\nQuery:a dish")
    order = sorted(range(2, 5), key=lambda n: -float(bare.server.vector(f"dish {n}") @ query))
    expected = [f"dish {n} {1 - float(bare.server.vector(f'dish {n}') @ query):.2f}" for n in order[:2]]
    lines = ok(bare, code=SEARCH.format(query="'a dish'")).splitlines()
    assert [f"{line.rpartition(' ')[0]} {float(line.rpartition(' ')[2]):.2f}" for line in lines] == expected
    ok(bare, "migrate", "recipes", "0001")
    assert bare.embedding("recipes_recipe").instruction == "Find a dish"
    bare.assert_in_step("title", "recipes_recipe")
    ok(bare, "migrate", "recipes", "zero")
    assert bare.rows("SELECT name FROM _qwen_embed.embedding") == []
    ok(bare, "migrate")


@pytest.mark.long
def test_makemigrations_finds_nothing_to_do(bare: Harness) -> None:
    ok(bare, "migrate")
    assert "No changes detected" in ok(bare, "makemigrations", "--check", "--dry-run")


def test_the_projects_own_tests_pass_without_a_worker(bare: Harness) -> None:
    done = manage(bare, "test", "--noinput")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 3 tests" in done.stderr


@pytest.mark.long
def test_what_cannot_be_done_is_one_sentence(bare: Harness) -> None:
    done = manage(bare, "sqlmigrate", "recipes", "0001")
    assert "-- Attaches an embedding to Recipe\n--\n-- THIS OPERATION CANNOT BE WRITTEN AS SQL" in done.stdout
    ok(bare, "migrate")
    code = "from recipes.models import Recipe\nRecipe.search(' ')"
    assert "UsageError: the query is blank: there is nothing to search for" in manage(bare, code=code).stderr
    fill(bare)
    bare.once()
    code = "from recipes.models import Recipe\nlist(Recipe.search('a dish')[:1])"
    assert "no worker is there to embed the query; run: pg-qwen-embed worker" in manage(bare, code=code).stderr
    code = "from recipes.models import Recipe\nlist(Recipe.search([1.0])[:1])"
    assert "different halfvec dimensions" in manage(bare, code=code).stderr


PLAN = """
from recipes.models import Recipe, Step
found = %s.search([float(n %% 7) for n in range(128)])
print(found[:10].explain())
print(len(found[:150]), found.filter(pk__gt=3990)[:9].count(), len({one.pk for one in found[:150]}))
"""


@pytest.mark.long
@both_versions
@pytest.mark.parametrize("model", ["Recipe", "Step"])
def test_index_is_used_and_a_filter_leaves_no_row_out(bare: Harness, model: str) -> None:
    ok(bare, "migrate")
    fill(bare, 4000)
    bare.execute(
        "INSERT INTO recipes_step (id, recipe_id, text) "
        "SELECT n, n, 'step ' || n || repeat(' and more words', n % 3) FROM generate_series(1, 4000) n"
    )
    bare.once()
    bare.execute("ANALYZE")
    said = ok(bare, code=PLAN % model)
    assert re.search(r"Index Scan using store_\d+_hnsw .*\n.* Order By: ", said), said
    assert said.splitlines()[-1] == "150 9 150"


FUNCTIONS = """
from django.db import transaction
from recipes.models import Recipe, Step
for search in (Recipe.search.hybrid, Recipe.search.closest, Step.search.closest):
    found = search("dish 3", 3)
    print([one.pk for one in found], found.count(), [one.pk for one in found.filter(pk__gt=2)[:1]])
print(round(Recipe.search.hybrid("dish 3", 3)[0].score, 3), round(Recipe.search.closest("dish 3")[0].distance, 3))
with transaction.atomic():
    vector = Recipe.search.vector("dish 3")
print([one.pk for one in Recipe.search.closest(vector, 3)])
print(Recipe.objects.filter(pk__in=Recipe.search.closest("dish 3", 2).values("pk")).count())
"""


@pytest.mark.long
def test_the_functions_of_an_embedding_are_querysets_too(bare: Harness) -> None:
    ok(bare, "migrate")
    fill(bare)
    bare.execute(
        "INSERT INTO recipes_step (id, recipe_id, text) SELECT n, n, 'dish ' || n FROM generate_series(1, 4) n"
    )
    bare.ok("detach", "recipes_recipe", "--yes")
    bare.ok("attach", "recipes_recipe", "--text", "title", "--words", "simple", "--index", "hnsw-binary")
    bare.worker()
    for name in ("recipes_recipe", "steps of 100%"):
        eventually(lambda name=name: bare.settled(name))
    can_be_asked(bare, "recipes_recipe")

    def nearest(view: str) -> list[int]:
        query = f"qwen_embed.embed_query('{view}', 'dish 3')"
        return [n for (n,) in bare.rows(f'SELECT id FROM qwen_embed."{view}" ORDER BY embedding <=> {query} LIMIT 3')]

    both = [n for (n,) in bare.rows("SELECT id FROM qwen_embed.recipes_recipe_hybrid('dish 3', 3)")]
    distance = bare.value("SELECT min(distance) FROM qwen_embed.recipes_recipe('dish 3')")
    hybrid, closest, steps, measures, by_vector, count = ok(bare, code=FUNCTIONS).splitlines()
    for line, ids in ((hybrid, both), (closest, nearest("recipes_recipe")), (steps, nearest("steps of 100%"))):
        assert line == f"{ids} 3 {[n for n in ids if n > 2][:1]}"
    assert measures.split()[1] == str(round(distance, 3))
    assert (by_vector, count) == (str(nearest("recipes_recipe")), "2")


@pytest.mark.long
def test_the_tests_of_a_project_run_with_the_packaged_model_as_the_page_says(bare: Harness, tmp_path: Path) -> None:
    serving = bare.process("serve", "--port", "0", fork=True)
    url = eventually(lambda: re.search(r"on (http://\S+/v1)", serving.said))[1]
    examples.written("django.md", tmp_path)
    for name in ("manage.py", "site_settings.py"):
        shutil.copy(PROJECT / name, tmp_path / name)
    for folder in ("shop", "shop/migrations"):
        (tmp_path / folder / "__init__.py").touch()
    page = (examples.DOCS / "django.md").read_text(encoding="utf-8")
    lines = re.findall(r"`(EMBEDDING_\w+ = [^`]+)`", page)
    with (tmp_path / "site_settings.py").open("a", encoding="utf-8") as settings:
        settings.writelines(f"{line}\n" for line in lines)
    migration = tmp_path / "shop/migrations/0002_embedding.py"
    text = migration.read_text(encoding="utf-8").replace(
        "from django.db", "from django.conf import settings\nfrom django.db"
    )
    for argument in ("model", "dimensions", "prompt_style"):
        (given,) = re.findall(rf"`({argument}=(?:settings|\"qwen3)[^`]*)`", page)
        text = re.sub(rf"^ *{argument}=.*\n", "", text, flags=re.MULTILINE).replace("text=[", f"{given},\n text=[")
    migration.rename(tmp_path / "0002_embedding.py")
    assert manage(bare, "makemigrations", "shop", project=tmp_path, app="shop").returncode == 0
    migration.write_text(text, encoding="utf-8")
    done = manage(bare, "test", "--noinput", project=tmp_path, app="shop", server_url=url)
    assert "Ran 1 test" in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_examples_of_the_page_on_django_run(bare: Harness, tmp_path: Path) -> None:
    bare.server.dimensions = 1024
    files = examples.written("django.md", tmp_path)
    assert files == ["shop/migrations/0002_embedding.py", "shop/models.py", "shop/views.py", "shop/tests.py"]
    for name in ("manage.py", "site_settings.py"):
        shutil.copy(PROJECT / name, tmp_path / name)
    for folder in ("shop", "shop/migrations"):
        (tmp_path / folder / "__init__.py").touch()

    def run(*arguments: str, code: str | None = None) -> str:
        done = manage(bare, *arguments, code=code, project=tmp_path, app="shop")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    embedding = (tmp_path / "shop/migrations/0002_embedding.py").rename(tmp_path / "0002_embedding.py")
    run("makemigrations", "shop")  # 0001_initial, of the models
    embedding.rename(tmp_path / "shop/migrations/0002_embedding.py")
    run("makemigrations", "--check")
    assert "Ran 1 test" in run("test", "--noinput")
    run("migrate")
    bare.execute("INSERT INTO shop_article (title, body, likes) VALUES ('one', '', 99), ('two', '', 1)")
    bare.once()
    can_be_asked(bare, "shop_article")
    assert "['one']" in run(code="from shop.views import answers\nprint([title for title, _ in answers('one?')])")
    run("migrate", "shop", "zero")
