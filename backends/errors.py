"""What the backends raise beyond ValueError and TypeError."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for that this machine cannot give; the message has the cause and the remedy."""


class NonFinite(RuntimeError):
    """The loss of step `step` of a run was not finite. What came before that step is done, and nothing of it was."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step
