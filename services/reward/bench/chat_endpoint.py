"""`python -m services.reward.bench.chat_endpoint`: a judge that follows a script; prints its address."""

# ruff: noqa: INP001, T201
from __future__ import annotations

import threading

from forklight_reward.judge.scripted import ScriptedChat
from services.reward.tests.judge.chat_server import follow, start


def main() -> None:
    chat, _ = start(follow(ScriptedChat()))
    threading.Thread(target=lambda: forget(chat.bodies, chat.keys), daemon=True).start()
    print(chat.url, flush=True)
    threading.Event().wait()


def forget(*lists: list[object]) -> None:
    """It keeps what it was asked, for tests; here nobody looks."""
    while not threading.Event().wait(5.0):
        for each in lists:
            each.clear()


if __name__ == "__main__":
    main()
