"""The errors, by type. Every message is one sentence that a person can act on.

The command line prints the message of an `Error` and exits with 1; the worker decides by the type."""


class Error(Exception):
    """Base class of everything that this package raises on purpose."""


class UsageError(Error):
    """The request cannot be carried out as given: an unknown column, a name that is taken, too many dimensions."""


class SetupError(Error):
    """The database is not ready: not initialised, an extension missing or too old, a privilege missing."""


class DatabaseUnavailable(Error):
    """PostgreSQL does not answer, or the connection was lost."""


class ServerUnavailable(Error):
    """The embedding server is down, overloaded or too slow: nothing is wrong with the documents."""


class ModelMismatch(ServerUnavailable):
    """The server's model identity is not the one recorded at `attach`, or not the one that it had before.

    It receives no documents, and its vectors are not used."""


class ProtocolError(ServerUnavailable):
    """The embedding server has no such path, or does not allow its use: 501, a redirect, or a 4xx that is no rejection
    and no overload."""


class ModelUnknown(ProtocolError):
    """The server lists several models, or none, and nobody has said which one is meant."""


class ServerOverloaded(ServerUnavailable):
    """The embedding server has more requests than it takes, or is not ready yet (429, 503).

    retry_after: seconds for which it wants no request; None: it does not say."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ServerFault(ServerUnavailable):
    """The embedding server's answer must not be written (too few vectors, NaN, wrong length, too large), or did not come
    in time.

    If the server answers other requests, this input may be the cause."""


class DocumentRejected(Error):
    """The embedding server rejects the input itself (400, 413, 422): the same text would be rejected again."""
