"""What the backends raise beyond ValueError and TypeError."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for that this machine cannot give; the message has the cause and the remedy."""


class NonFinite(RuntimeError):
    """The loss of step `step` of a run was not finite. What came before that step is done, and nothing of it was."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step


class OutOfMemory(MemoryError):
    """There was no room for `asked` bytes, `free` being left; `batch` rows at a time would fit, if that is known."""

    def __init__(self, asked: int, free: int, batch: int | None = None) -> None:
        advice = "" if batch is None else f"; batch_size={batch} would fit" if batch else "; no batch_size would fit"
        super().__init__(f"out of memory: {asked} bytes were asked for, and {free} are free{advice}")
        self.asked, self.free, self.batch = asked, free, batch
