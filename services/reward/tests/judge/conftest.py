"""What several tests of the judge start."""

from services.reward.tests.judge.chat_server import start_server

__all__ = ["start_server"]
