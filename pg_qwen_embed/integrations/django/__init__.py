"""Django: operations of migrations, and searches as querysets. It needs psycopg 3 (ENGINE django.db.backends.postgresql)."""
