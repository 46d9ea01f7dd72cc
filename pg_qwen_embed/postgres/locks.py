"""The advisory locks: what each number means. No statement here; sql/session.sql takes them."""

from enum import IntEnum


class Lock(IntEnum):
    """The first key of our advisory locks; the second is the generation's id. The numbers are arbitrary and must not change."""

    LEADER = 0x51450001  # session, exclusive: who follows a generation
    GATE = 0x51450002  # session, exclusive by a sleeping worker; transaction, shared by a writer that need not notify
    STORE = 0x51450003  # transaction: shared to write vectors, exclusive to remove them
    OBJECTS = (
        0x51450005  # transaction, exclusive, with a hash of the embedding's name: who creates or drops its objects
    )
    INDEX = 0x51450009  # session, exclusive: who builds or drops the index of a generation
    MODEL_MISMATCH = 0x51450004  # session, exclusive by its leader: no server has the recorded model identity
    ANSWERS = 0x51450006  # session, exclusive: who answers queries for a generation


MIGRATION = 0x5145000400000000  # transaction, exclusive: `init`, until its migrations are committed; one 64-bit number

# Of sessions that ask for a query's vector, until they have it; sql/query.sql has the numbers too.
BELL = 0x51450007  # shared, with 0: somebody asks
SLOT = 0x51450008  # exclusive, with a number: a share of the lock table
DOOR = 0x5145000A  # with a generation and a process id: exclusive by the worker, shared by a session that waits for it
WORDS = 0x51460000  # plus its position, shared, with four bytes: a piece of a request
HEADER = 0x51470000  # plus the length of the request, shared: all its words are there
