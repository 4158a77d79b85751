"""Progress on the screen: one line, rewritten, on a terminal; lines now and then in a file or a notebook."""

import shutil
import sys
import time
from typing import TextIO

from fusedmlp.model.history import History

REDRAW = 0.1  # seconds between two drawings on a terminal
LINES = 5.0  # seconds between two lines elsewhere
BAR = 20  # characters


class Progress:
    """Shows epoch, loss, validation loss and accuracy, and rows per second.

    show     True; False: nothing; "auto": off a terminal only what takes longer than LINES is shown
    epochs   how many there will be
    rows     in an epoch
    history  read when something is drawn
    """

    def __init__(
        self, show: bool | str, epochs: int, rows: int, history: History, stream: TextIO | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._show = bool(show) and self._stream is not None  # a program without a console has none
        self._terminal = self._show and self._stream.isatty()
        self._every_end = show is True or self._terminal
        self._epochs, self._rows, self._history = epochs, rows, history
        self._drawn = time.monotonic()
        self._seen = 0  # epochs at the last drawing
        self._width = 0

    def step(self, rows: int, loss: float) -> None:
        """`rows` of the running epoch are done, `loss` is its loss so far."""
        if self._show and self._terminal and time.monotonic() - self._drawn >= REDRAW:
            self._draw(self._history.epochs, rows / self._rows, loss)

    def epoch(self) -> None:
        """An epoch is in the history."""
        first = self._every_end and self._seen == 0
        if self._show and (first or time.monotonic() - self._drawn >= (REDRAW if self._terminal else LINES)):
            self._draw(self._history.epochs, 0.0, self._history.loss[-1])

    def close(self) -> None:
        """Shows the last epoch; what comes next on the screen starts on a line of its own."""
        if self._show and self._every_end and self._history.epochs > self._seen:
            self._draw(self._history.epochs, 0.0, self._history.loss[-1])
        if self._width:
            self._write("\n")

    def _draw(self, done: int, part: float, loss: float) -> None:
        text = f"epoch {done:{len(str(self._epochs))}}/{self._epochs}"
        if self._terminal:
            filled = int(BAR * (done + part) / self._epochs)
            text += f" [{'#' * filled}{'.' * (BAR - filled)}]"
        history = self._history
        text += f"  loss {loss:.5g}"
        if history.val_loss:
            text += f"  val_loss {history.val_loss[-1]:.5g}"
        if history.val_accuracy:
            text += f"  accuracy {history.val_accuracy[-1]:.2%}"
        text += f"  {history.rows_per_second:,.0f} rows/s"
        if self._terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            self._write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._write(text + "\n")
        self._drawn, self._seen = time.monotonic(), done

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
