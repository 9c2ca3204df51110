"""What the tests of the openai backend share: a teacher run against loopback servers, and the texts it must end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import problem, read_rows, write_rows
from generation.chat_server import ChatServer, text_for

import teacher_cot
from cotkit.generation import prompts
from cotkit.grading.extraction import answer_line_end


def words(folder: Path, *servers: ChatServer | str, rows: int = 1, more: tuple[Any, ...] = ()) -> list[str]:
    """The command line of a teacher run over so many problems."""
    path = folder / "problems.jsonl"
    if not path.exists():
        write_rows(path, [problem(number) for number in range(rows)])
    urls = [server if isinstance(server, str) else server.url for server in servers]
    flags = ["--input_path", path, "--output_path", folder / "out.jsonl", "--model_name", "m", "--backend", "openai"]
    return [str(word) for word in [*flags, "--base_url", *urls, *more]]


def teach(folder: Path, *servers: ChatServer | str, rows: int = 1, more: tuple[Any, ...] = ()) -> tuple[int, list[Any]]:
    """(exit code, rows of the output)."""
    code = teacher_cot.main(words(folder, *servers, rows=rows, more=more))
    return code, read_rows(folder / "out.jsonl")


def written_for(number: int, stop: bool = True) -> str:
    """What the servers write for a problem."""
    text = text_for({"messages": prompts.teacher_messages(problem(number), "rewrite")})
    return text[: answer_line_end(text)] if stop else text


def complete(rows: list[Any], number: int) -> bool:
    """Every problem once, in order, with its own text."""
    expected = [(problem(number)["id"], written_for(number)) for number in range(number)]
    return [(row["id"], row["response"]) for row in rows] == expected
