"""`billet doctor`: check a machine for what its agent or its server needs, with the cure of each failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import click

from billet.commands.config import KINDS
from billet.commands.options import SectionedCommand, build, config_options, console, output_option

if TYPE_CHECKING:
    from billet.doctor.checks import Check


@click.group()
def doctor() -> None:
    """Check this machine for what a host or a server needs, and say how to fix what fails. Changes nothing.

    \b
    billet doctor agent --config /etc/billet/agent.toml      # on a host
    billet doctor server --config /etc/billet/server.toml    # on a server

    Both take the options, file and environment variables of `billet agent` and `billet server`. The exit code is 1 if
    a check fails; a warning does not count.
    """


AGENT = """Check a host: its machine, flintlockd and the servers.

That is clock, KVM, flintlockd and its version, containerd, thin pool, certificates, and the way to each server. It
opens one connection to each server, and shows the link token there. Nothing joins the fleet.
"""
SERVER = """Check a server: its machine, etcd and the other servers.

That is clock, data folder, ports, certificates and their keys, each member of etcd, and the way to each server.
Ports on which `billet server` listens already are as good as free ones.
"""


def _checking(kind: str, text: str) -> Callable[..., None]:
    def run(output: str, **values: Any) -> None:
        from billet.logs import log_to_stderr
        from billet.show.doctor import failed, show_checks

        config = build(KINDS[kind], values)
        log_to_stderr(config.log_format, "error")
        checks = asyncio.run(_all(_checks(kind, config)))
        if output == "json":
            rows = [{"check": one.name, "level": one.level.lower(), "found": one.found, "cure": one.cure}
                    for one in checks]  # fmt: skip
            click.echo(json.dumps(rows, indent=2))
        else:
            show_checks(console(), checks)
        if failed(checks):
            click.get_current_context().exit(1)

    run.__doc__ = text
    return run


def _checks(kind: str, config: Any) -> AsyncIterator[Check]:
    if kind == "agent":
        from billet.doctor.host import check_host

        return check_host(config)
    from billet.doctor.server import check_server

    return check_server(config)


async def _all(checks: AsyncIterator[Check]) -> list[Check]:
    return [check async for check in checks]


for _kind, _text in (("agent", AGENT), ("server", SERVER)):
    _command = click.command(
        _kind, cls=SectionedCommand, context_settings={"auto_envvar_prefix": f"BILLET_{_kind.upper()}"}
    )
    doctor.add_command(_command(config_options(KINDS[_kind])(output_option(_checking(_kind, _text)))))
