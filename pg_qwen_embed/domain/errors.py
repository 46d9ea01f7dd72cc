"""What can go wrong, as types. Every message is one sentence a person can act on.

The command line prints the message of an `Error` and exits with 1; the worker decides by the type."""


class Error(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(Error):
    """What was asked for cannot be done as asked: an unknown column, a name taken, dimensions too large."""


class SetupError(Error):
    """The database is not ready: not initialised, extension missing or too old, no privilege."""


class DatabaseUnavailable(Error):
    """PostgreSQL does not answer, or the connection was lost."""


class ServerUnavailable(Error):
    """The embedding server is down, overloaded or too slow: nothing is wrong with the documents."""


class ModelMismatch(ServerUnavailable):
    """The embedding server has another model, or other weights, than an embedding was attached with, or than it had
    before. It receives no documents, and its vectors are not used."""


class ProtocolError(ServerUnavailable):
    """The embedding server has no such path, or does not let us use it (4xx but for what means the input or overload; 501)."""


class ServerOverloaded(ServerUnavailable):
    """The embedding server has more requests than it takes (429, 503), or is not ready yet."""


class ServerFault(ServerUnavailable):
    """The embedding server answered something that must not be written (too few vectors, NaN, wrong length), or
    nothing in time. When it answers others, it may be this input that does it."""


class DocumentRejected(Error):
    """The embedding server refuses the input itself (4xx): asking again with the same text is of no use."""
