"""`clir`, and `python -m clir_cli`: the command line, in whose imports a Ctrl-C is no traceback either."""

import sys


def main() -> None:
    try:
        from clir_cli import cli
    except KeyboardInterrupt:
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
