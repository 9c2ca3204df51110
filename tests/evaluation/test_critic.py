"""The critic with judges of known worth instead of a model: which judges pass, which calls are repeated, what is refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, raw_data, read_rows, write_rows
from generation import chat_server

import score
from cotkit.core.errors import UserError
from cotkit.evaluation import judge_controls, llm_judge
from cotkit.generation import engines
from cotkit.generation.backends import server_pool
from cotkit.generation.types import Completion, Request
from scripts import compare
from scripts import critic as script

Rate = Callable[[str, str, Request], str]  # (reference, solution, request) -> reply
QUOTE = re.compile(r"\[(PROBLEM|REFERENCE|SOLUTION) ([0-9a-f]{12})\]\n(.*?)\n\[END OF \1 \2\]", re.DOTALL)
SYSTEMS = ("baseline", "distilled")


class FakeJudge:
    """A backend that reads the quotes as a judge must, and rates by a rule; counts what it was asked."""

    def __init__(self, rate: Rate) -> None:
        self.rate, self.asked = rate, 0

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        for request in requests:
            self.asked += 1
            quotes = {name: text for name, _, text in QUOTE.findall(request.messages[-1]["content"])}
            yield request, Completion(self.rate(quotes["REFERENCE"], quotes["SOLUTION"], request), "stop", 100, 20)


def perfect(reference: str, solution: str, request: Request) -> str:
    """Knows: the reference is worth 5, one wrong number costs 2, filler nothing, and anything else is worth 1."""
    lines = solution
    for filler in judge_controls.PADDING:
        lines = lines.replace(filler, "").strip()
    ours, theirs = (["".join(line.split()) for line in text.split("\n")] for text in (lines, reference))
    differing = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
    return f"I compared the lines.\nScore: {5 if not differing else 3 if differing == 1 else 1}"


def coin(reference: str, solution: str, request: Request) -> str:
    return f"It seems so.\nScore: {random.Random(f'{request.id} {request.sample}').randint(1, 5)}"


def talkative(reference: str, solution: str, request: Request) -> str:
    return "I would rather not say."


def problems(number: int) -> list[dict[str, Any]]:
    """Problems with references of two equations each, no two alike."""
    return [
        problem(
            n,
            solution=f"Tom has {n + 10}*3={3 * (n + 10)} apples in boxes.\nThen he has {3 * (n + 10)}-{n}={2 * n + 30} left.",
            answer=str(2 * n + 30),
        )
        for n in range(number)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 problems, and two systems: one repeats the reference, the other makes up something."""
    rows = problems(120)
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    for system in SYSTEMS:
        write_rows(
            tmp_path / f"run/predictions/gsm8k/{system}.jsonl",
            [
                {
                    "id": row["id"],
                    "sample": 0,
                    "dataset": "gsm8k",
                    "finish_reason": "stop",
                    "prompt_tokens": 1,
                    "completion_tokens": 1,
                    "thinking": "",
                    "response": llm_judge.reference(row) + "\nProblem: and so on"
                    if system == "distilled"
                    else "No idea.",
                }
                for row in rows
            ],
        )
    return tmp_path / "run/predictions/gsm8k"


def words(folder: Path, backend: str) -> list[str]:
    predictions = [str(folder / f"{system}.jsonl") for system in SYSTEMS]
    place = ["--dataset", "gsm8k", "--data_root", str(folder.parents[2] / "data"), "--pred_path", *predictions]
    return [*place, "--backend", backend, "--model_name", "judge"]


def run_critic(monkeypatch: pytest.MonkeyPatch, folder: Path, rate: Rate, *more: str) -> tuple[int, FakeJudge]:
    judge = FakeJudge(rate)
    monkeypatch.setattr(engines, "load", lambda *_: judge)
    return script.main([*words(folder, "fake"), *more]), judge


def score_all(folder: Path) -> dict[str, Any]:
    """The summaries' `critic` of all systems, by score.py."""
    found = {}
    for system in SYSTEMS:
        place = ["--dataset", "gsm8k", "--data_root", str(folder.parents[2] / "data")]
        assert score.main([*place, "--pred_path", str(folder / f"{system}.jsonl")]) == 0
        found[system] = json.loads((folder / f"{system}.summary.json").read_text(encoding="utf-8"))["critic"]
    return found


@pytest.mark.slow
def test_a_perfect_judge_passes_and_a_coin_fails(monkeypatch: pytest.MonkeyPatch, folder: Path):
    code, judge = run_critic(monkeypatch, folder, perfect, "--controls", "30", "--critic_limit", "40")
    assert code == 0
    assert judge.asked == 3 * (5 * 30 + 2 * 40)  # criteria x (controls, two systems)
    found = score_all(folder)
    assert all(found[system]["reliable"] for system in SYSTEMS)
    validity = found["distilled"]["criteria"]["validity"]
    assert (validity["mean"], validity["rated"], validity["asked"]) == (5.0, 40, 40)  # rated up to the answer
    assert {name: control["value"] for name, control in validity["controls"].items()} == {
        "gold": 5.0,
        "other gold": 1.0,
        "wrong step": 1.0,
        "padding": 0.0,
        "retest": 1.0,
        "coverage": 1.0,
    }
    assert {control["n"] for name, control in validity["controls"].items() if name != "coverage"} == {30}
    assert found["baseline"]["criteria"]["validity"]["mean"] == 1.0
    run_critic(monkeypatch, folder, coin, "--controls", "100", "--criteria", "validity", "--overwrite")
    unreliable = score_all(folder)["distilled"]["criteria"]["validity"]
    assert unreliable["failed"] == ["gold", "other gold", "wrong step", "retest"]
    assert "NOT TO BE RELIED ON" in llm_judge.lines(score_all(folder)["distilled"])[0]


def test_a_judge_behind_a_server(monkeypatch: pytest.MonkeyPatch, folder: Path):
    """The same over HTTP: a server that knows, and fails its first three requests."""

    def knows(body: dict[str, Any]) -> str:
        quotes = {name: text for name, _, text in QUOTE.findall(body["messages"][-1]["content"])}
        return perfect(quotes["REFERENCE"], quotes["SOLUTION"], Request("", 0, []))

    monkeypatch.setattr(chat_server, "text_for", knows)
    monkeypatch.setattr(server_pool, "FIRST_DELAY_SECONDS", 0.02)
    with chat_server.ChatServer(500, "cut", 429) as server:
        more = ["--criteria", "validity", "--controls", "30", "--critic_limit", "10", "--base_url", server.url]
        assert script.main([*words(folder, "openai"), *more]) == 0
    assert score_all(folder)["distilled"]["criteria"]["validity"] | {"controls": {}} == {
        "mean": 5.0,
        "low": 5.0,
        "high": 5.0,
        "rated": 10,
        "asked": 10,
        "controls": {},
        "failed": [],
        "reliable": True,
    }


@pytest.mark.parametrize(("rate", "passes"), [(perfect, True), (coin, False)])
def test_judges_on_the_references_of_gsm8k(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rate: Rate, passes: bool):
    """100 real references: the perfect judge passes every control, the coin fails."""
    rows = []
    for number, line in enumerate(read_rows(raw_data("gsm8k/test.jsonl"))[:400]):
        solution, _, answer = line["answer"].rpartition("\n#### ")
        rows.append(problem(number, question=line["question"], solution=solution, answer=answer))
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    predictions = [
        {
            "id": row["id"],
            "sample": 0,
            "dataset": "gsm8k",
            "response": llm_judge.reference(row),
            "finish_reason": "stop",
        }
        for row in rows
    ]
    for system in SYSTEMS:
        write_rows(tmp_path / f"run/predictions/gsm8k/{system}.jsonl", predictions)
    folder = tmp_path / "run/predictions/gsm8k"
    code, _ = run_critic(monkeypatch, folder, rate, "--criteria", "validity", "--critic_limit", "50")
    record = json.loads((folder / "baseline.critic.json").read_text(encoding="utf-8"))
    assert code == 0 and all(control["n"] >= 100 for control in record["controls"]["validity"].values())
    assert llm_judge.describe(record)["reliable"] is passes


def test_ratings_reach_scores_and_comparison(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
):
    score_all(folder)
    assert {row["critic"] for row in read_rows(folder / "distilled.scores.jsonl")} == {None}
    run_critic(monkeypatch, folder, perfect, "--critic_limit", "30", "--controls", "20", "--criteria", "validity")
    score_all(folder)
    rated = {
        system: [row["id"] for row in read_rows(folder / f"{system}.scores.jsonl") if row["critic"]]
        for system in SYSTEMS
    }
    assert rated["baseline"] == rated["distilled"] and len(rated["baseline"]) == 30
    assert rated["baseline"] != [f"gsm8k-test-{number:05d}" for number in range(30)]
    first = (folder / "distilled.summary.json").read_bytes()
    (folder / "distilled.summary.json").unlink()
    score_all(folder)
    assert (folder / "distilled.summary.json").read_bytes() == first
    capsys.readouterr()
    assert compare.main([str(folder.parents[1])]) == 0
    text = capsys.readouterr().out
    assert (
        "| distilled | validity | 5.00 [5.00, 5.00] | 30 of 30 rated | gold 5.00, other gold 1.00, wrong step 1.00"
        in text
    )
    assert "Ratings of the same problems: distilled against baseline +4.00 [+4.00, +4.00] on 30 questions.\n" in text


def test_the_subset_does_not_depend_on_the_order():
    rows = problems(50)
    names = [row["id"] for row in llm_judge.chosen(rows, 10)]
    assert [row["id"] for row in llm_judge.chosen(rows[::-1], 10)] == names
    assert [row["id"] for row in llm_judge.chosen(rows, 20)][:10] == names != sorted(names)


def test_nothing_is_asked_twice_and_a_killed_run_resumes(monkeypatch: pytest.MonkeyPatch, folder: Path):
    options = ("--criteria", "validity", "--controls", "20", "--critic_limit", "20")
    left = [130]

    def failing(reference: str, solution: str, request: Request) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return perfect(reference, solution, request)

    with pytest.raises(KeyboardInterrupt):
        run_critic(monkeypatch, folder, failing, *options)
    code, judge = run_critic(monkeypatch, folder, perfect, *options)
    assert (code, judge.asked) == (0, 5 * 20 + 2 * 20 - 130)
    before = (folder / "distilled.critic.json").read_bytes()
    assert run_critic(monkeypatch, folder, talkative, *options)[1].asked == 0
    assert (folder / "distilled.critic.json").read_bytes() == before


def test_unreadable_replies_are_requested_again_and_then_left_out(monkeypatch: pytest.MonkeyPatch, folder: Path):
    options = ("--criteria", "validity", "--controls", "20")

    def shy(reference: str, solution: str, request: Request) -> str:
        silent = "distilled gsm8k-test-0000" in request.id  # never rates these ten
        return (
            talkative(reference, solution, request)
            if silent or request.sample == 0
            else perfect(reference, solution, request)
        )

    code, judge = run_critic(monkeypatch, folder, shy, *options)
    assert code == 3
    assert judge.asked == 2 * (5 * 20 + 2 * 120) + 10  # all are asked twice, those ten a third time
    found = score_all(folder)["distilled"]["criteria"]["validity"]
    assert (found["rated"], found["asked"], found["mean"]) == (110, 120, 5.0)
    assert found["failed"] == ["coverage of the system"] and not found["reliable"]
    rows = read_rows(folder / "distilled.scores.jsonl")
    assert [row["critic"] for row in rows[:10]] == [None] * 10 and rows[10]["critic"] == 5.0
    code, judge = run_critic(monkeypatch, folder, shy, *options)
    assert (code, judge.asked) == (3, 0)


def test_a_judge_that_never_rates_has_no_figure(monkeypatch: pytest.MonkeyPatch, folder: Path):
    code, _ = run_critic(
        monkeypatch, folder, talkative, "--criteria", "clarity", "--controls", "20", "--critic_limit", "5"
    )
    found = score_all(folder)["baseline"]
    assert code == 3 and not found["reliable"]
    assert llm_judge.lines(found)[0].startswith(
        "critic, clarity: no rating, 0 of 5 rated (needs 98%); NOT TO BE RELIED ON: gold none (n 0, needs at least 4.5)"
    )


def test_controls_are_skipped_where_there_is_nothing_to_plant():
    rows = [problem(0, solution=""), problem(1, solution="It is 2."), *problems(40)[5:30]]
    found = judge_controls.references(rows, 20, seed=1)
    assert len(found) == 20 and all(wrong != llm_judge.reference(row) for row, wrong in found)
    assert judge_controls.references(rows, 20, seed=1) == found != judge_controls.references(rows, 20, seed=2)
    few = judge_controls.measure({(source, "a"): 5 for source in judge_controls.SOURCES}, ["a"], "clarity")
    assert few["gold"]["value"] == 5 and not few["gold"]["passed"]  # one reference measures nobody


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temperature", "0"], "needs --temperature above 0"),
        (["--is_done"], "--is_done and --merge_only"),
        (["--data_root", "nowhere"], "nowhere/gsm8k/test.jsonl: not found"),
    ],
)
def test_flags_that_cannot_work(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: list[str], says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        run_critic(monkeypatch, folder, perfect, *flags)


def test_ratings_of_other_predictions_are_refused(monkeypatch: pytest.MonkeyPatch, folder: Path):
    run_critic(monkeypatch, folder, perfect, "--criteria", "validity", "--controls", "20", "--critic_limit", "5")
    rows = read_rows(folder / "distilled.jsonl")
    write_rows(folder / "distilled.jsonl", [{**rows[0], "response": "#### 1"}, *rows[1:]])
    with pytest.raises(UserError, match=r"distilled.critic.json: rates other predictions than distilled.jsonl"):
        score_all(folder)
    path = folder / "baseline.critic.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "schema": 0}), encoding="utf-8")
    with pytest.raises(UserError, match="schema 0, but 1 is needed"):
        score_all(folder)


def test_different_judges_are_not_compared(monkeypatch: pytest.MonkeyPatch, folder: Path):
    run_critic(monkeypatch, folder, perfect, "--criteria", "validity", "--controls", "20", "--critic_limit", "5")
    path = folder / "baseline.critic.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["judge"]["model"] = "another"
    path.write_text(json.dumps(record), encoding="utf-8")
    score_all(folder)
    with pytest.raises(UserError, match="rated by different judges or criteria"):
        compare.main([str(folder.parents[1])])
