"""An outbox without a database: transactions that draw numbers and commit in any order, and a reader that must miss none.

The reader uses the low watermark. It deletes nothing."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from pg_qwen_embed.worker.watermark import Watermark

Step = tuple[object, ...]  # the name of a method of World, and its arguments


@dataclass
class Transaction:
    xid: int
    drawn: list[int] = field(default_factory=list)


@dataclass
class World:
    """The database and the reader."""

    low: Watermark = field(default_factory=Watermark)
    next_xid: int = 100
    next_seq: int = 1
    open: list[Transaction] = field(default_factory=list)
    visible: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def write(self) -> None:
        """A transaction has its id before it draws a number."""
        self.open.append(Transaction(self.next_xid))
        self.next_xid += 1
        self.draw(-1)

    def draw(self, which: int) -> None:
        if self.open:
            self.open[which % len(self.open)].drawn.append(self.next_seq)
            self.next_seq += 1

    def end(self, which: int, commits: bool) -> None:
        if self.open:
            transaction = self.open.pop(which % len(self.open))
            self.visible |= set(transaction.drawn) if commits else set()

    def xmin(self) -> int:
        return min((transaction.xid for transaction in self.open), default=self.next_xid)

    def read(self, after: int, limit: int) -> tuple[int, bool]:
        """Read a page without what is in flight. Returns its highest number, and whether it was full."""
        page = sorted(seq for seq in self.visible - self.seen if seq > after)[:limit]
        self.seen |= set(page)
        return (page[-1] if page else after), len(page) == limit

    def look(self, limit: int) -> None:
        highest, _ = self.read(self.low.read_position, limit)
        self.low.read(highest)

    def sweep(self, limit: int, between: int) -> None:
        """Sweep like the reader of a pipeline: first the snapshot's xmin and a new transaction id, then the mark, then the read."""
        xmin = self.xmin()
        transaction_id = self.next_xid
        self.next_xid += 1
        self.end(between, commits=True)  # a commit in between may be visible already, never the other way round
        self.low.mark(transaction_id)
        highest, full = self.read(self.low.low, limit)
        self.low.swept(xmin, highest if full else None)

    def check(self) -> None:
        drawn = {seq for transaction in self.open for seq in transaction.drawn}
        missed = {seq for seq in (self.visible - self.seen) | drawn if seq <= self.low.low}
        assert not missed, f"below the low watermark {self.low.low} and not read: {missed}"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write")),
        st.tuples(st.just("draw"), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("look"), st.integers(1, 4)),
        st.tuples(st.just("sweep"), st.integers(1, 4), st.integers(0, 3)),
    ),
    min_size=10,
    max_size=50,
)


def play(steps: list[Step]) -> World:
    """The world after these steps, checked after each one."""
    world = World()
    for name, *arguments in steps:
        getattr(world, str(name))(*arguments)
        world.check()
    return world


def finish(world: World) -> None:
    """All transactions commit, and the reader sweeps until it has seen everything."""
    while world.open:
        world.end(0, commits=True)
    for _ in range(len(world.visible) + 1):
        world.look(3)
        world.sweep(3, 0)
        world.check()
    assert world.seen == world.visible
