"""The command `likeness`: one group, one file per noun, each loaded when it is called.

Only click is imported at the top of these files: `likeness --help` must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from registry.cli.common import EXIT_INTERRUPTED

#: Commands in the order in which a new user meets them: name -> (module, what it does).
COMMANDS = {
    "init": ("init", "Make a registry, with another encoder than the built-in one if you like."),
    "enroll": ("enroll", "Enroll recordings of an artist's voice."),
    "query": ("query", "Find enrolled artists whose voice a track resembles."),
    "batch": ("batch", "Examine many tracks; start it again to go on."),
    "artists": ("artists", "List, show, rename and remove artists."),
    "tracks": ("tracks", "Show what was decided about a track."),
    "export": ("export", "Write the registry as JSON lines."),
    "check": ("upkeep", "Check that the registry is sound."),
    "rebuild-index": ("upkeep", "Make the index anew from the database."),
    "doctor": ("doctor", "Check that this installation gives the numbers it should."),
}


class Refusal(click.ClickException):
    """One of our errors as click shows it: one message, one exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class and reads it from self


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and turns our errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"registry.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a refusal or Ctrl-C becomes one line and its exit code, all else keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped by Ctrl-C", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            from embeddings.errors import EmbeddingError
            from registry.errors import RegistryError

            if not isinstance(error, EmbeddingError | RegistryError):
                raise
            from registry.report import printable

            text = "\n".join(printable(line) for line in str(error).splitlines())
            raise Refusal(text, getattr(error, "exit_code", 1)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="likeness")
def main() -> None:
    """Likeness: does this recording carry the voice of somebody enrolled here, or an imitation of it?

    \b
    Begin with:
      likeness enroll "Ada Vale" vocals/*.wav --consent release-2026-014
      likeness query suspect.mp3

    Exit codes: 0 done; 1 refused, nothing changed; 2 wrong usage; 3 finished, but some recordings could not be used;
    4 the registry is damaged; 5 flagged, with --fail-on flagged; 130 stopped by Ctrl-C.
    """
