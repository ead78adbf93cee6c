"""The entry points: `kubectl ryzanstein ...`, and the words that kubectl's completion asks for."""

import logging
import sys


def main() -> None:
    """Runs the command of sys.argv and ends with its exit status."""
    from ryzanstein_kubectl.commands.line import run

    logging.disable(logging.WARNING)  # the client's retries; what matters reaches the user as a sentence
    sys.exit(run(sys.argv[1:]))


def complete() -> None:
    """Prints what may follow the words of sys.argv, for kubectl's completion."""
    from ryzanstein_kubectl.commands.completion import complete_words

    print("\n".join(complete_words(sys.argv[1:])))


if __name__ == "__main__":
    main()
