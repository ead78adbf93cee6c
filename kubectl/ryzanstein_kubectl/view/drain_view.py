"""How far a drain is: a line for each thing done, and under them one that changes. Without a terminal, lines alone."""

from rich.console import Console
from rich.status import Status
from rich.text import Text

from ryzanstein_kubectl.view.terminal import mark, to_json


class DrainView:
    """Close it before anything else is printed."""

    def __init__(self, console: Console, *, json: bool) -> None:
        self._console, self._json = console, json
        self._status: Status | None = None
        self._last = ""

    def told(self, event: str, words: str) -> None:
        """Something is done."""
        if self._json:
            print(to_json({"event": event, "message": words}), flush=True)
            return
        done = event not in ("alone", "waiting")
        sign = mark("good" if done else "waiting", plain=self._console.options.ascii_only)
        self._console.print(Text.assemble(sign, " ", words), soft_wrap=True)

    def waiting(self, replica: str, words: str) -> None:
        """What is being waited for; told anew only when the words change."""
        if words == self._last:
            return
        self._last = words
        if self._json or not self._console.is_terminal:
            self.told("waiting", f"{replica}: {words}")
            return
        text = Text.assemble((replica, "bold"), f" {words}")
        if self._status is None:
            self._status = self._console.status(text, spinner="dots", spinner_style="dim")
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
