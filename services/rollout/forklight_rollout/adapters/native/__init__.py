"""The engine on `forklight_model`, in this process."""

from forklight_rollout.adapters.native.engine import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import native_engine_factory

__all__ = ["NativeEngine", "NativeOptions", "native_engine_factory"]
