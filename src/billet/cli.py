"""The `billet` command: its subcommands, and how it prints errors."""

from __future__ import annotations

import importlib
from typing import IO, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from billet.at_rest import write_for_owner_only
from billet.core.errors import BilletError, ConfigError


class LazyCommand(NamedTuple):
    """Module and attribute of a subcommand, imported on first use, and its line in --help."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "demo": LazyCommand(
        "billet.commands.demo",
        "demo",
        "Run a whole cluster on this machine and compare it with a static list of hosts.",
    ),
    "server": LazyCommand(
        "billet.commands.serve", "server", "Serve Flintlock's API for the fleet. Run 1, 3 or 5 of them."
    ),
    "agent": LazyCommand(
        "billet.commands.serve", "agent", "Report and bid for one host. Runs beside its flintlockd."
    ),
    "status": LazyCommand(
        "billet.commands.status", "status", "Show who leads, and how the servers, the store and the hosts are."
    ),
    "hosts": LazyCommand("billet.commands.lists", "hosts", "List the hosts and how full they are."),
    "vms": LazyCommand("billet.commands.vms", "vms", "List the microVMs and their hosts, and watch them."),
    "vm": LazyCommand("billet.commands.vms", "vm", "Show everything about one microVM."),
    "host": LazyCommand("billet.commands.host", "host", "Show, cordon, drain, fence or remove a host."),
    "rebalance": LazyCommand(
        "billet.commands.rebalance", "rebalance", "Even out the fleet by recreating microVMs on other hosts."
    ),
    "create": LazyCommand("billet.commands.microvm", "create", "Create microVMs from a YAML or JSON spec."),
    "delete": LazyCommand("billet.commands.delete", "delete", "Delete microVMs by uid, name, file or namespace."),
    "place": LazyCommand("billet.commands.place", "place", "Show how many microVMs of one shape fit now, and where."),
    "explain": LazyCommand(
        "billet.commands.explain", "explain", "Show the auction of a microVM: bids, refusals and winner."
    ),
    "events": LazyCommand("billet.commands.events", "events", "List what happened in the fleet, and follow it live."),
    "accuracy": LazyCommand(
        "billet.commands.accuracy", "accuracy", "Compare the hosts' predictions with the actual results."
    ),
    "store": LazyCommand("billet.commands.store", "store", "Back up, restore and check the servers' store."),
    "simulate": LazyCommand(
        "billet.commands.simulate", "simulate", "Compare policies on a workload that you describe."
    ),
    "replay": LazyCommand(
        "billet.commands.replay", "replay", "Replay recorded auctions with another policy or fleet."
    ),
    "sim": LazyCommand("billet.commands.sim", "sim", "Test Billet: simulate clusters with faults, in virtual time."),
    "token": LazyCommand("billet.commands.token", "token", "Create, list and revoke credentials: who may do what."),
    "config": LazyCommand(
        "billet.commands.config", "config", "Check settings, or show each value and where it came from."
    ),
    "doctor": LazyCommand(
        "billet.commands.doctor", "doctor", "Check a machine for what a host or a server needs, with cures."
    ),
    "certs": LazyCommand("billet.commands.certs", "certs", "Create a CA and certificates for a first setup."),
    "fake-flintlockd": LazyCommand(
        "billet.fake.command", "fake_flintlockd", "Run a flintlockd without a hypervisor, for testing."
    ),
}


class CommandError(click.ClickException):
    """One line in red instead of a traceback; the exit code is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the first line in red, then the rest of the message (a child process's log) as it is."""
        from billet.show.plain import plain  # rich takes long to import

        line, _, rest = plain(self.message, lines=True).partition("\n")
        click.secho(f"billet: {line}", err=file is None, file=file, fg="red")
        if rest:
            click.echo(rest, err=file is None, file=file)


class UsageFailure(CommandError):
    """The same with exit code 2, which click uses for wrong options."""

    exit_code = 2


class BilletGroup(click.Group):
    """The command group. It imports a subcommand on first use and prints errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command. None if there is no such command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin like this, without importing them."""
        found = [
            CompletionItem(name, help=one.summary) for name, one in COMMANDS.items() if name.startswith(incomplete)
        ]
        return found or super().shell_complete(ctx, incomplete)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the options before the subcommand."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            raise _helped(error) from None
        except click.UsageError as error:
            raise _one_line(error, "billet") from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError as error:
            raise _helped(error) from None
        except click.UsageError as error:
            raise _one_line(error, ctx.command_path) from None
        except BilletError as error:
            failure = UsageFailure if isinstance(error, ConfigError) else CommandError
            raise failure(error.text) from None


def _helped(error: click.exceptions.NoArgsIsHelpError) -> click.exceptions.Exit:
    """Print the help of a group without a subcommand: whoever asks for nothing has made no mistake."""
    click.echo(error.ctx.get_help() if error.ctx else error.format_message())
    return click.exceptions.Exit(0)


def _one_line(error: click.UsageError, command: str) -> UsageFailure:
    command = error.ctx.command_path if error.ctx else command
    return UsageFailure(f"{error.format_message().rstrip('.')}; see {command} --help")


@click.group(cls=BilletGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="billet", prog_name="billet")
def main() -> None:
    """One address for a fleet of Flintlock hosts.

    Clients send Flintlock's own CreateMicroVM to Billet. The hosts bid for the microVM, the lowest utilisation score
    wins, and the winner's flintlockd boots it.

    \b
    To try it:       billet demo
    On real hosts:   billet certs, billet server,
                     and one billet agent beside each flintlockd
    """


def run() -> None:
    """Entry point of `billet` and `python -m billet`."""
    write_for_owner_only()
    main(prog_name="billet", auto_envvar_prefix="BILLET")
