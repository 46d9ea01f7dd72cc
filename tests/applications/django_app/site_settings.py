"""Settings of the project. The database is that of the libpq variables, as in production."""

import os

SECRET_KEY = "not a secret"  # noqa: S105
INSTALLED_APPS = [os.environ.get("APP", "recipes")]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "HOST": os.environ["PGHOST"],
        "USER": os.environ.get("PGUSER", ""),
        "PORT": os.environ.get("PGPORT", ""),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
