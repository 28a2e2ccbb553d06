"""`python -m tasks.params` validates params.yaml and prints the settings."""

from __future__ import annotations

from dataclasses import fields

from tasks.params import SECTIONS, General, parse, read_yaml
from tasks.runtime import stage


def main() -> None:
    """Run the command."""
    parser = stage.build_parser(__doc__)
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    args = parser.parse_args()

    def body() -> None:
        settings = parse(read_yaml(args.params), str(args.params), warn=True)
        keys = (*(field.name for field in fields(General)), *SECTIONS)
        for key in () if args.quiet else keys:
            print(f"{key}: {getattr(settings, key)}")

    stage.run(body)


if __name__ == "__main__":
    main()
