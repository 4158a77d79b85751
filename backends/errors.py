"""What the backends raise beyond ValueError and TypeError."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for that this machine cannot give; the message has the cause and the remedy."""


class Stopped(RuntimeError):
    """A run ended before its last step: at step `step` of it, for `reason`. What came before that step is done,
    and nothing of it was."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"stopped at step {step}: {reason}")
        self.reason, self.step = reason, step
