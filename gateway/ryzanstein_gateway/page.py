"""The built-in page at /ui: a few files without a key, for they hold nothing; what they show only for a key.

Knows files and headers; page_state knows what is shown.
"""

from importlib.resources import files
from typing import Final

from ryzanstein_gateway.exchange import Header, Reply

UI: Final = "/ui"
STATE: Final = "/ui/state"
_TYPES: Final = {
    "index.html": b"text/html; charset=utf-8",
    "app.js": b"text/javascript; charset=utf-8",
    "draw.js": b"text/javascript; charset=utf-8",
    "style.css": b"text/css; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, in no frame; and no text can become markup, whatever the script does."""
HEADERS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _POLICY),
)


class Files:
    """The page's files, read once."""

    def __init__(self) -> None:
        folder = files("ryzanstein_gateway") / "ui"
        self._bodies = {name: (folder / name).read_bytes() for name in _TYPES}

    def holds(self, path: str) -> bool:
        """Whether a path is one of them. The page itself is there at /ui and at /ui/."""
        return path == UI or self._name(path) in self._bodies

    async def send(self, path: str, reply: Reply) -> None:
        """One of them."""
        if path == UI:  # what it names is relative, so that it works beneath any prefix
            await reply.start(307, [(b"location", b"ui/"), (b"content-length", b"0"), *HEADERS])
            await reply.end()
            return
        name = self._name(path)
        body = self._bodies[name]
        fixed = [(b"content-type", _TYPES[name]), (b"content-length", b"%d" % len(body))]
        await reply.start(200, [*fixed, (b"cache-control", b"no-cache"), *HEADERS])
        await reply.write(body)
        await reply.end()

    @staticmethod
    def _name(path: str) -> str:
        return path.removeprefix(UI + "/") or "index.html" if path.startswith(UI + "/") else ""
