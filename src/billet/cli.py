"""HOW does a person use it? The `billet` command: which subcommands there are, and how errors look."""

from __future__ import annotations

import importlib
from typing import IO, Any, NamedTuple

import click

from billet.core.errors import BilletError, ConfigError


class Target(NamedTuple):
    """Where a subcommand is, imported only when it is used, and the line that --help shows of it."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "demo": Target("billet.commands.demo", "demo", "A whole cluster on this machine, beside a static list of hosts."),
    "server": Target(
        "billet.commands.serve", "server", "Serve Flintlock's API for the fleet; run 1, 3 or 5 of them."
    ),
    "agent": Target("billet.commands.serve", "agent", "Report and bid for one host, beside its flintlockd."),
    "hosts": Target("billet.commands.lists", "hosts", "Show every host and how full it is."),
    "vms": Target("billet.commands.lists", "vms", "Show the microVMs and their hosts."),
    "host": Target("billet.commands.host", "host", "Plan work on a host: cordon, drain, remove; fence a dead one."),
    "rebalance": Target(
        "billet.commands.rebalance", "rebalance", "Even out the fleet by having a few microVMs made again."
    ),
    "create": Target("billet.commands.microvm", "create", "Create microVMs from a YAML or JSON spec."),
    "delete": Target("billet.commands.microvm", "delete", "Delete microVMs by uid."),
    "explain": Target("billet.commands.explain", "explain", "Show the auction of a microVM: who bid what, and why."),
    "accuracy": Target("billet.commands.accuracy", "accuracy", "Show what bids foretold, and what came."),
    "store": Target("billet.commands.store", "store", "Back up, restore and check what the servers remember."),
    "simulate": Target(
        "billet.commands.simulate", "simulate", "Place a workload as Billet would and as others do, and compare."
    ),
    "replay": Target("billet.commands.replay", "replay", "What would have happened to the auctions on record."),
    "sim": Target("billet.commands.sim", "sim", "Whole clusters in virtual time, with everything going wrong."),
    "certs": Target("billet.commands.certs", "certs", "Make a CA and certificates to begin with."),
    "fake-flintlockd": Target(
        "billet.fake.command", "fake_flintlockd", "A flintlockd without a hypervisor, for trying out."
    ),
}


class CommandError(click.ClickException):
    """One line in red instead of a traceback; the exit code is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line to stderr, and below it what a process of ours had to say, if there is any."""
        line, _, rest = self.message.partition("\n")
        click.secho(f"billet: {line}", err=file is None, file=file, fg="red")
        if rest:
            click.echo(rest, err=file is None, file=file)


class WrongSetting(CommandError):
    """The same with exit code 2, as click has it for wrong options."""

    exit_code = 2


class Billet(click.Group):
    """A group that imports a subcommand only when it is used, and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first day, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        command: click.Command = getattr(importlib.import_module(target.module), target.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, target.summary) for name, target in COMMANDS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options before the subcommand."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _one_line(error, "billet") from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error, ctx.command_path) from None
        except BilletError as error:
            failure = WrongSetting if isinstance(error, ConfigError) else CommandError
            raise failure(error.text) from None


def _one_line(error: click.UsageError, command: str) -> WrongSetting:
    command = error.ctx.command_path if error.ctx else command
    return WrongSetting(f"{error.format_message().rstrip('.')}; see {command} --help")


@click.group(cls=Billet, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="billet", prog_name="billet")
def main() -> None:
    """One address for a fleet of Flintlock hosts.

    Clients send Flintlock's own CreateMicroVM to Billet; the hosts bid, the lowest utilisation score wins, and the
    winner's flintlockd boots the microVM.

    \b
    Begin with:      billet demo
    Then, for real:  billet certs, billet server,
                     and a billet agent beside each flintlockd
    """


def run() -> None:
    """The entry point: `billet` and `python -m billet`."""
    main(prog_name="billet", auto_envvar_prefix="BILLET")
