"""What a training leaves behind: its history, or the error that ended it."""

from dataclasses import dataclass, field


@dataclass
class History:
    """What one call of `fit` saw, epoch by epoch. An epoch that was cut short, or whose
    validation was, has no entry in the lists.

    loss          each epoch's loss: the mean of its batch losses, weighted by their rows; their sum with reduction
                  "sum". It is taken before each batch's step, so it trails the loss of the weights at the epoch's end
    val_loss      the validation data's loss after each epoch; empty without validation data
    val_accuracy  the share of the validation data that is classified right after each epoch; empty without validation
                  data, and for a loss that classifies nothing
    steps, rows   optimizer steps and rows of training data, an unfinished epoch's included
    seconds       spent on these steps; validation, callbacks and printing are left out
    interrupted   whether Ctrl-C ended the training
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def add(self, loss: float, validation: tuple[float, float | None] | None) -> None:
        """A finished epoch: its loss and, with validation data, that data's loss and accuracy."""
        self.loss.append(loss)
        if validation is not None:
            val_loss, val_accuracy = validation
            self.val_loss.append(val_loss)
            if val_accuracy is not None:
                self.val_accuracy.append(val_accuracy)

    @property
    def epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.loss)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


class NonFiniteLoss(ArithmeticError):
    """A batch's loss was infinite or NaN. The model holds the weights before that step.

    epoch          the epoch of this `fit`, counted from 0
    step           the step of that epoch, counted from 0
    learning_rate  the optimizer's
    history        what came before
    """

    def __init__(self, epoch: int, step: int, learning_rate: float, history: History) -> None:
        super().__init__(epoch, step, learning_rate, history)
        self.epoch, self.step, self.learning_rate, self.history = epoch, step, learning_rate, history

    def __str__(self) -> str:
        return (
            f"the loss is not finite at step {self.step} of epoch {self.epoch} (learning rate {self.learning_rate:g}); "
            "the model holds the weights before that step. Look for NaN or infinities in x and y, or for numbers of "
            "very different size; otherwise try a smaller learning rate"
        )
