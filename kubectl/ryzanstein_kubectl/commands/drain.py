HELP = ""
EXAMPLES = ""
import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None: ...
async def run(a: argparse.Namespace) -> int:
    return 0
