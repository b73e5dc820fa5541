"""Help texts that keep the form of their examples."""

import click

__all__ = ["EpilogCommand"]


class EpilogCommand(click.Command):
    """A command whose epilog is written as it stands: examples keep their lines."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog."""
        if self.epilog:
            formatter.write_paragraph()
            for line in self.epilog.strip().splitlines():
                formatter.write(f"{line}\n")
