"""Requests to stop: signals that take effect at the end of a step."""

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

AGREE_EVERY = 10
"""Steps between the ranks' agreements on whether to stop; each costs one small message."""


class StopRequest:
    """Context in which SIGTERM, SIGUSR1 and Ctrl-C request a stop instead of ending the process.

    A second Ctrl-C interrupts at once. Outside the main thread signals keep their handlers.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():  # None: one that is not of Python
            signal.signal(number, handler or signal.SIG_DFL)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def agreed(self, step: int, always: bool = False) -> int | None:
        """Number of the signal that requested a stop, the same on every rank at the same step; or None.

        Args:
            step: several ranks agree at every AGREE_EVERY-th, and say None at the others.
            always: they agree at this step too.
        """
        if self.accelerator.num_processes == 1:
            return self.signal
        if step % AGREE_EVERY and not always:
            return None
        ours = torch.tensor(float(self.signal or 0), device=self.accelerator.device)
        numbers = self.accelerator.gather(ours.view(1))
        assert isinstance(numbers, torch.Tensor)
        return int(numbers.max()) or None
