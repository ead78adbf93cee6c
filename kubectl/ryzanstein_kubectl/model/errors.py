"""What ends a command: one sentence for the user, and the exit status."""


class CommandError(Exception):
    """The command cannot go on. The text is one sentence that says what to do; `status` is the exit status."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status
