from __future__ import annotations

from fractions import Fraction

import pytest

from cotkit.core.number_words import find, in_digits


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("twenty-one", ["21"]),
        ("Twenty One pens", ["21"]),
        ("one hundred and five", ["105"]),
        ("a hundred and five", ["105"]),
        ("one thousand, two hundred and thirty-four", ["1234"]),
        ("two million three hundred thousand and five", ["2300005"]),
        ("fifteen hundred", ["1500"]),
        ("2.5 million", ["2500000"]),
        ("1,500 thousand", ["1500000"]),
        ("18 hundred", ["1800"]),
        ("half a dozen", ["6"]),
        ("half a million", ["500000"]),
        ("a dozen", ["12"]),
        ("three quarters", ["0.75"]),
        ("two-thirds", ["2/3"]),
        ("a third", ["1/3"]),
        ("two and a half", ["2.5"]),
        ("18 and a half", ["18.5"]),
        ("one and three quarters", ["1.75"]),
        ("three point two five", ["3.25"]),
        ("five and six", ["5", "6"]),
        ("two three", ["2", "3"]),
        ("twenty twenty", ["20", "20"]),
        ("two million and 5", ["2000000"]),
        ("3 quarters", []),  # coins
        ("18 and 20", []),
        ("hundred", []),
        ("someone often weighs atonement", []),
        ("1/2 million", []),
        ("x2 million", []),
    ],
)
def test_number_words_are_read_as_whole_phrases(text: str, numbers: list[str]) -> None:
    assert [in_digits(found.value) for found in find(text)] == numbers


def test_every_number_below_a_thousand_is_read_back() -> None:
    small = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
    )
    small += "seventeen eighteen nineteen".split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()

    def words(n: int) -> str:
        if n < 20:
            return small[n]
        if n < 100:
            return tens[n // 10 - 2] + (f"-{small[n % 10]}" if n % 10 else "")
        return f"{small[n // 100]} hundred" + (f" and {words(n % 100)}" if n % 100 else "")

    for n in range(1000):
        text = f"so {words(n)} eggs"
        (found,) = find(text)
        assert (found.value, text[found.start : found.end]) == (n, words(n))
        (found,) = find(f"{words(n)} thousand and seven") if n else [found]
        assert found.value == 1000 * n + 7 * bool(n)


def test_fractions_in_digits() -> None:
    assert [in_digits(Fraction(*pair)) for pair in ((-37, 2), (1, 3), (1, 8), (5, 1))] == ["-18.5", "1/3", "0.125", "5"]
