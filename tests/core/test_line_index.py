from __future__ import annotations

from cotkit.core.line_index import LineIndex


def index(*entries: tuple[str, int]) -> LineIndex:
    made = LineIndex()
    for key, line in entries:
        made.add(key, line)
    return made


def test_lines_are_found_by_key():
    found = index(("b", 1), ("a", 3), ("c", 4))
    assert [found.get(key) for key in "abcd"] == [3, 1, 4, None]
    assert ("a" in found, "d" in found, len(found)) == (True, False, 3)
    assert index().get("a") is None


def test_keys_may_be_added_after_a_look_up():
    found = index(("b", 1))
    assert "a" not in found
    found.add("a", 2)
    assert (found.get("a"), found.get("b")) == (2, 1)


def test_the_first_repeated_key_is_reported_with_both_lines():
    assert index(("z", 1), ("y", 2), ("x", 4), ("y", 5), ("z", 9), ("y", 10)).repeated() == (2, 5)
    assert index(("z", 1), ("y", 2)).repeated() is None
    assert index().repeated() is None
