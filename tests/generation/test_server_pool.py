"""How the openai backend's work is shared among servers: by itself with random faults, and over loopback."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from conftest import read_rows
from generation.chat_server import ChatServer
from generation.openai_tools import complete, teach, words

import teacher_cot
from cotkit.generation.backends import server_pool
from cotkit.generation.backends.server_pool import AttemptError, Blame, Pool

pytestmark = pytest.mark.usefixtures("short_delays")


def test_work_goes_to_whoever_is_free_and_no_server_gets_too_much(tmp_path: Path):
    with ChatServer(seconds=0.02) as fast, ChatServer(seconds=0.4) as slow:
        code, rows = teach(tmp_path, fast, slow, rows=60, more=("--concurrency", 3))
    assert code == 0
    assert complete(rows, 60)
    assert len(fast.bodies) > 2 * len(slow.bodies) > 0
    assert len(fast.bodies) + len(slow.bodies) == 60
    assert max(fast.most_running, slow.most_running) == 3


def test_a_server_that_only_fails_leaves_the_work_to_the_others(tmp_path: Path):
    with ChatServer(seconds=0.02) as good, ChatServer(then=500) as bad:
        code, rows = teach(tmp_path, good, bad, rows=40, more=("--concurrency", 2, "--max_retries", 3))
    assert code == 0
    assert complete(rows, 40)
    assert len(bad.bodies) <= 2 + 3


def test_two_ranks_share_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ChatServer() as server:
        for rank in "01":
            monkeypatch.setenv("RANK", rank)
            assert teacher_cot.main(words(tmp_path, server, rows=9)) == 0
    assert complete(read_rows(tmp_path / "out.jsonl"), 9)
    assert len(server.bodies) == 9


def test_every_item_comes_out_once_whatever_fails(monkeypatch: pytest.MonkeyPatch):
    """Random faults of every kind, some items poisonous, some servers dead: 40 pools, no item lost or doubled."""
    monkeypatch.setattr(server_pool, "FIRST_DELAY_SECONDS", 0.0005)
    for seed in range(40):
        chance = random.Random(seed)
        dead = set(chance.sample("abc", chance.randrange(3)))
        poison = set(chance.sample(range(60), 5))
        pool: Pool[int, str] = Pool("abc", concurrency=4, max_retries=4)
        made: Counter[int] = Counter()

        async def attempt(url: str, item: int) -> str:
            if url in dead:  # noqa: B023
                raise AttemptError("dead", Blame.SERVER)
            if item in poison:  # noqa: B023
                raise AttemptError("poison", chance.choice([Blame.ITEM, Blame.EITHER]))  # noqa: B023
            if chance.random() < 0.1:  # noqa: B023
                raise AttemptError("now and then", chance.choice([Blame.SERVER, Blame.EITHER]))  # noqa: B023
            made[item] += 1  # noqa: B023
            return f"made {item}"

        async def close() -> None:
            pass

        results = dict(pool.run(range(60), attempt, close))
        assert set(results) == set(range(60))
        good = {item for item, result in results.items() if isinstance(result, str)}
        assert all(results[item] == f"made {item}" for item in good)
        assert made == Counter(good)
        assert not good & poison
        assert len(good) >= 50
