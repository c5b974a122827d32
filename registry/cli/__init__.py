"""The command `likeness`: one group, one file per noun, each loaded when it is called.

Only click is imported at the top of these files: `likeness --help` must not wait for torch.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from registry.cli.common import EXIT_INTERRUPTED, LOG_JSON, libraries_log_as_asked, logs_json, say

#: Commands in the order in which a new user meets them: name -> (module, what it does).
COMMANDS = {
    "init": ("init", "Make a registry: encrypted, or with another encoder than the built-in one."),
    "enroll": ("enroll", "Enroll recordings of an artist's voice."),
    "query": ("query", "Find enrolled artists whose voice a track resembles."),
    "explain": ("explain", "Say why a track did or did not reach the threshold for one artist."),
    "batch": ("batch", "Examine many tracks; start it again to go on."),
    "budget": ("budget", "Show what other false-flag budgets would flag of the tracks on record."),
    "decide": ("budget", "Decide a finished run again with another false-flag budget, without its audio."),
    "artists": ("artists", "List, show, approve, rename, merge, split and remove artists."),
    "consents": ("consents", "List, add and withdraw consents."),
    "tracks": ("tracks", "Show what was decided about a track; remove a track."),
    "audit": ("audit", "Show and verify the record of what was done."),
    "privacy": ("privacy", "Print all that is kept about anybody; export it for one artist."),
    "purge": ("privacy", "Delete what is kept of tracks for longer than you want."),
    "receipts": ("audit", "Show the receipts of removals."),
    "export": ("export", "Write the registry as JSON lines."),
    "key": ("key", "Rotate and back up the key of an encrypted registry."),
    "config": ("config", "List and change the settings of a registry."),
    "evaluate": ("evaluate", "Measure on your own recordings what is flagged and missed, with a report."),
    "calibrate": ("calibrate", "Fit likelihood ratios and thresholds to your own recordings; go back."),
    "models": ("models", "List, show and fetch encoders; choose the one of a registry."),
    "reembed": ("reembed", "Go over to another encoder: make every reference anew."),
    "status": ("operations", "Show how the registry is: artists, index, runs, removals, backups, disk."),
    "backup": ("operations", "Write the whole registry to one file."),
    "restore": ("operations", "Put a backup in the place of the registry; what was removed since stays removed."),
    "check": ("upkeep", "Check that the registry is sound."),
    "rebuild-index": ("upkeep", "Make the index anew from the database."),
    "doctor": ("doctor", "Check that this installation gives the numbers it should."),
}


#: What click raises, with the help as its message, where a command is missing; before 8.2 it only prints the help.
_NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what ends a command early into one message on stderr and an exit code; a bug keeps its traceback."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except KeyboardInterrupt:
        _leave("info", "stopped by Ctrl-C", EXIT_INTERRUPTED)
    except click.Abort:
        _leave("error", "stopped at a question, nothing was changed; --yes goes ahead without asking", 1)
    except click.ClickException as error:
        no_command = isinstance(error, _NO_COMMAND)
        if no_command and not logs_json():
            raise
        if isinstance(error, click.UsageError) and error.ctx is not None and not logs_json():
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
        message = "Missing command." if no_command else error.format_message()
        if isinstance(error, click.NoSuchOption):
            message += " A name that begins with - goes behind --, as in: likeness query -- -x.wav"
        _leave("error", message, error.exit_code)
    except Exception as error:
        from embeddings.errors import EmbeddingError
        from registry.errors import RegistryError

        if isinstance(error, EmbeddingError | RegistryError):
            _leave("error", str(error), getattr(error, "exit_code", 1))
        is_closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
        if is_closed_pipe or not logs_json():  # click ends quietly when nobody reads any more
            raise
        trace = "".join(traceback.format_exception(error))
        _leave("critical", f"{type(error).__name__}: {error}", 1, traceback=trace)


def _leave(level: str, message: str, exit_code: int, **more: Any) -> NoReturn:
    say(level, message, exit_code=exit_code, **more)
    raise click.exceptions.Exit(exit_code) from None


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before the command."""
        # Once before for --log-json alone: what is wrong with the others must come as JSON too.
        trial = click.Context(self, resilient_parsing=True, **self.context_settings)
        super().parse_args(trial, list(args))
        ctx.meta.update(trial.meta)
        with _reported():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a refusal or Ctrl-C becomes one line and its exit code, all else keeps its traceback."""
        if isinstance(sys.stdout, TextIOWrapper):  # a name beyond the terminal's alphabet must not end a command
            sys.stdout.reconfigure(errors="backslashreplace")
        with _reported(), libraries_log_as_asked():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="likeness")
@click.option(
    "--log-json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    envvar="LIKENESS_LOG_JSON",
    show_envvar=True,
    callback=lambda context, _, chosen: context.meta.update({LOG_JSON: chosen}),
    help="Write one JSON object per line to stderr, and no progress bar.",
)
def main() -> None:
    """Likeness: does this recording carry the voice of somebody enrolled here, or an imitation of it?

    \b
    Begin with:
      likeness enroll "Ada Vale" vocals/*.wav --consent release-2026-014
      likeness query suspect.mp3

    Exit codes: 0 done; 1 refused, nothing changed; 2 wrong usage; 3 finished, but some recordings could not be used;
    4 the registry is damaged; 5 flagged, with --fail-on flagged; 130 stopped by Ctrl-C.
    """
