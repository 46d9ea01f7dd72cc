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
    MODEL_MISMATCH = 0x51450004  # session, exclusive by its leader: no server has the recorded model identity


MIGRATION = 0x5145000400000000  # transaction, exclusive: `init`, until its migrations are committed; one 64-bit number
