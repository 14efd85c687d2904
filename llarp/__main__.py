"""`python -m llarp`: the same as the `llarp` command."""

from llarp.cli import run

if __name__ == "__main__":
    run()
