"""The judge, against a stand-in for its endpoint."""

from __future__ import annotations

import pytest

from moe_patch.errors import ConfigError, JudgeError
from moe_patch.evaluation.free.judge import Judge
from tests.evaluation.free.judge_server import judge_server

CASES = [("The capital of France is", "Lyon", "Lyon."), ("It is", "Ulm", "Rio"), ("It is", "Ulm", "Rio")]


def expects_lyon(message: str) -> str:
    return "Yes." if "Expected answer: Lyon" in message else "<think>Yes, is it?</think>\n**No**"


def test_replies_are_graded_and_what_was_asked_and_said_is_kept() -> None:
    with judge_server(expects_lyon) as server:
        found = Judge(server.url, "grader", key="secret").grade(CASES)
    assert [each.right for each in found] == [True, False, False]
    assert [each.reply for each in found][:2] == ["Yes.", "<think>Yes, is it?</think>\n**No**"]
    for (prompt, answer, reply), each in zip(CASES, found, strict=True):
        assert f"Prompt: {prompt}\nExpected answer: {answer}\nReply: {reply}\n" in each.prompt
    assert len(server.requests) == 2  # the third case is the second
    for sent in server.requests:
        assert (sent["path"], sent["model"]) == ("/v1/chat/completions", "grader")
        assert (sent["key"], sent["temperature"]) == ("Bearer secret", 0)


def test_without_a_key_none_is_sent() -> None:
    with judge_server(expects_lyon) as server:
        Judge(server.url, "grader").grade(CASES[:1])
    assert [sent["key"] for sent in server.requests] == [None]


def test_a_busy_judge_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    replies = iter(["busy", "busy", "yes"])
    with judge_server(lambda _: next(replies)) as server:
        (found,) = Judge(server.url, "grader").grade(CASES[:1])
    assert found.right
    assert waited == [1, 2]


def test_what_is_neither_yes_nor_no_is_no_verdict() -> None:
    with judge_server(lambda _: "Perhaps, yes") as server:
        (found,) = Judge(server.url, "grader").grade(CASES[:1])
    assert found.right is None


@pytest.mark.parametrize(
    ("reply", "problem"),
    [("error", "it answers 500"), ("nothing", "no chat completion"), (None, "with a text")],
)
def test_a_judge_that_fails_is_named(reply: str | None, problem: str) -> None:
    with (
        judge_server(lambda _: reply) as server,
        pytest.raises(JudgeError, match=rf"^the judge grader at {server.url}: .*{problem}"),
    ):
        Judge(server.url, "grader").grade(CASES)


def test_a_judge_that_is_not_there_is_named() -> None:
    with judge_server(expects_lyon) as server:
        url = server.url
    with pytest.raises(JudgeError, match=f"^the judge grader at {url}: "):
        Judge(url, "grader", seconds=5.0).grade(CASES[:1])


@pytest.mark.parametrize(("url", "model"), [("localhost:8000", "x"), ("file:///etc", "x"), ("http://a", " ")])
def test_a_judge_needs_an_address_and_a_name(url: str, model: str) -> None:
    with pytest.raises(ConfigError):
        Judge(url, model)


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Judge("http://a/v1", "x", key="secret"))
