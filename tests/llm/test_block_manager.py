from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from light_tts.llm.block_manager import BlockManager, chain_keys

BLOCK_TOKENS = 4
NUM_BLOCKS = 12


class Pages(RuleBasedStateMachine):
    """Sequences that take, share, publish and give back pages, against a model that counts holders."""

    def __init__(self):
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, BLOCK_TOKENS)
        self.held = []  # (rows, pages) of each sequence
        self.content = {}  # what a page was filled with, by the rows up to its end

    @rule(rows=st.lists(st.integers(0, 1), max_size=24))
    def begin(self, rows):
        keys = list(chain_keys(rows, BLOCK_TOKENS))
        pages = self.blocks.attach(keys)
        for index, page in enumerate(pages):
            # A page found by its key holds exactly these rows.
            assert self.content[page] == tuple(rows[: (index + 1) * BLOCK_TOKENS])
        missing = self.blocks.num_blocks_for(len(rows)) - len(pages)
        if missing > self.blocks.num_free:
            self.blocks.release(pages)
            return
        fresh = self.blocks.allocate(missing)
        for index, page in enumerate(fresh, start=len(pages)):
            self.content[page] = tuple(rows[: (index + 1) * BLOCK_TOKENS])
        pages += fresh
        for page, key in zip(pages, keys, strict=False):
            self.blocks.publish(page, key)
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data):
        self.blocks.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def distrust(self, data):
        self.blocks.forget(self.held[data.draw(st.integers(0, len(self.held) - 1))])

    @invariant()
    def every_page_is_counted_once(self):
        held = {page for pages in self.held for page in pages}
        assert self.blocks.num_used == len(held)
        assert self.blocks.num_free == NUM_BLOCKS - len(held)
        assert self.blocks.num_kept <= self.blocks.num_free
        for page in held:
            assert self.blocks.is_shared(page) == (sum(page in pages for pages in self.held) > 1)

    @invariant()
    def a_fresh_page_belongs_to_nobody(self):
        held = {page for pages in self.held for page in pages}
        kept = self.blocks.num_kept
        if kept:
            return  # taking a kept page would evict it and change what is tested
        taken = self.blocks.allocate(self.blocks.num_free)
        assert len(set(taken)) == len(taken)
        assert not held & set(taken)
        self.blocks.release(taken)

    def teardown(self):
        for pages in self.held:
            self.blocks.release(pages)
        assert self.blocks.num_free == NUM_BLOCKS


TestPages = Pages.TestCase


@given(st.lists(st.integers(0, 2**40), max_size=30), st.integers(0, 7))
def test_keys_can_be_made_bit_by_bit(rows, num_whole):
    whole = list(chain_keys(rows, BLOCK_TOKENS))
    cut = min(num_whole, len(whole))
    previous = whole[cut - 1] if cut else b""
    assert whole[:cut] + list(chain_keys(rows[cut * BLOCK_TOKENS :], BLOCK_TOKENS, previous)) == whole


def test_a_key_tells_the_whole_beginning_not_the_page_alone():
    left = list(chain_keys([1, 1, 1, 1, 5, 5, 5, 5], BLOCK_TOKENS))
    right = list(chain_keys([2, 1, 1, 1, 5, 5, 5, 5], BLOCK_TOKENS))
    assert not set(left) & set(right)


def test_published_pages_outlive_their_sequence_until_the_space_is_needed():
    blocks = BlockManager(3, BLOCK_TOKENS)
    keys = list(chain_keys([7] * 8, BLOCK_TOKENS))
    pages = blocks.allocate(2)
    for page, key in zip(pages, keys, strict=True):
        blocks.publish(page, key)
    blocks.release(pages)
    assert blocks.num_kept == 2
    assert blocks.attach(keys) == pages
    blocks.release(pages)
    taken = blocks.allocate(2)  # the blank page, then the end of the beginning
    assert blocks.attach(keys) == pages[:1]
    assert pages[1] in taken


def test_without_the_cache_nothing_is_kept():
    blocks = BlockManager(3, BLOCK_TOKENS, prefix_cache=False)
    pages = blocks.allocate(1)
    keys = list(chain_keys([7] * 4, BLOCK_TOKENS))
    blocks.publish(pages[0], keys[0])
    blocks.release(pages)
    assert blocks.num_kept == 0
    assert blocks.attach(keys) == []
