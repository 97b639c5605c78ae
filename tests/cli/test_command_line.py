"""Command lines, environment variables and config files; each error is one line."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

from billet.cli import COMMANDS, main
from billet.commands.options import build, secret
from billet.config import ServerConfig
from billet.config_agent import AgentConfig
from billet.core.errors import ConfigError
from billet.fake.settings import FakeConfig
from billet.store.sqlite import SqliteStore
from tests.zygote import ZYGOTE


def run(*arguments: str, env: dict[str, str] | None = None):
    return CliRunner().invoke(main, list(arguments), prog_name="billet", auto_envvar_prefix="BILLET", env=env)


def test_help_lists_every_command_without_importing_any():
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_its_options(name):
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"Usage: billet {name}" in result.output


ALL_HELP = [(), *((name,) for name in COMMANDS), ("host", "drain"), ("host", "fence"), ("store", "backup")]


@pytest.mark.parametrize("names", ALL_HELP, ids=" ".join)
def test_help_is_not_cut_off_at_80_columns(names):
    lines = run(*names, "--help", env={"COLUMNS": "80"}).output.splitlines()
    assert [line for line in lines if len(line) > 80 or line.endswith(",...")] == []
    assert '[default: ""]' not in " ".join(lines)


def test_help_explains_the_columns_of_the_tables():
    assert all(column in run("hosts", "--help").output for column in ("HOW FULL", "BOOT QUEUE", "PRESSURE"))
    assert all(column in run("vms", "--help").output for column in ("STATE", "SCORE", "AGE"))
    assert all(column in run("explain", "--help").output for column in ("FULL AFTER", "SHAPE", "BOOT DELAY"))


def test_an_unknown_command_is_one_line_and_exit_code_2():
    result = run("hsots")
    assert result.exit_code == 2
    assert result.stderr == "billet: No such command 'hsots'; see billet --help\n"


@pytest.mark.parametrize("names", [(), ("host",), ("store",)], ids=str)
def test_a_group_without_a_subcommand_prints_its_help(names):
    result = run(*names)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.rstrip() == run(*names, "--help").output.rstrip()


def test_help_groups_a_servers_settings_and_says_what_zero_means():
    result = run("server", "--help").output
    assert "The agents' link:" in result
    assert "0 = all" in result


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give --tls-cert and --tls-key, or --insecure to serve without TLS"),
        (["--insecure"], "give --link-tls-cert and --link-tls-key, or --link-insecure to serve without TLS"),
        (
            ["--insecure", "--link-insecure", "--grpc-endpoint", "nowhere"],
            "--grpc-endpoint is 'nowhere'; write HOST:PORT",
        ),
        (
            ["--insecure", "--link-insecure", "--store", "mysql://x"],
            "--store is 'mysql://x'; write sqlite:///PATH or",
        ),
        (["--insecure", "--link-insecure", "--bid-wait-ms", "-1"], "--bid-wait-ms is -1; the minimum is 0"),
        (
            ["--insecure", "--link-insecure", "--quota", "a=vms:3", "--quota", "b=cpu:4"],
            "--quota of b is 'cpu:4'; write for example vcpu:64",
        ),
        (
            ["--insecure", "--link-insecure", "--endpoint", "zone=a,listen=9191"],
            "--endpoint is 'zone=a,listen=9191'; write zone=NAME,listen=HOST:PORT",
        ),
        (["--bid-wait-ms", "soon"], "'--bid-wait-ms': 'soon' is not a valid integer; see billet server --help"),
        (["--no-such"], "No such option '--no-such'; see billet server --help"),
        (["--insecure", "--tls-cert", __file__], "--tls-cert is set and --tls-key is not; give both or neither"),
        (["--insecure", "--tls-cert", __file__, "--tls-key", __file__], "contradict each other"),
        (["--link-token-file", "/no/such"], "--link-token-file is '/no/such', which cannot be read"),
        (["--shape-weight", "nan"], "--shape-weight is nan; give a number"),
        (["--fence-after-s", "inf"], "--fence-after-s is inf; give a number"),
        (["--quota", "a=vms:1", "--quota", "a=vms:2"], "--quota a is given twice, as 'vms:1' and 'vms:2'; give one"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(arguments, line):
    result = run("server", *arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


async def test_what_ends_a_server_while_it_runs_is_one_line_too(tmp_path):
    """The record is read in a task group. Broken on purpose (errors stay in their groups): a traceback, exit code 1.
    With `except*` in place of `_ungrouped` so on Python 3.11.2 only."""
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    await store.close()
    with closing(sqlite3.connect(tmp_path / "billet.db")) as file, file:
        file.execute("INSERT INTO records VALUES ('newer/1', x'00')")
    ports = "--grpc-endpoint", "127.0.0.1:0", "--link-endpoint", "127.0.0.1:0", "--http-endpoint", ""
    done = ZYGOTE.run("server", "--insecure", "--link-insecure", "--data-dir", str(tmp_path), *ports)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "billet: record newer/1 is of an unknown kind: upgrade Billet, or delete the record"
    )


def test_a_setting_that_may_be_given_again_is_named_in_the_environment_as_on_the_command_line():
    result = run("server", "--insecure", "--link-insecure", env={"BILLET_SERVER_QUOTA": "a=vms:1 b=vms:many"})
    assert "--quota of b is 'vms:many'" in result.stderr
    assert "--server is 'x'" in run("agent", "--link-insecure", env={"BILLET_AGENT_SERVER": "x"}).stderr


def test_an_agent_says_what_it_lacks():
    assert "--link-ca is not set" in run("agent").stderr
    assert "HOST:PORT" in run("agent", "--link-insecure", "--server", "x").stderr


def test_a_setting_comes_from_the_file_then_the_environment_then_the_command_line(tmp_path):
    file = tmp_path / "billet.toml"
    file.write_text("[server]\ninsecure = true\nlink_insecure = true\nask_hosts = -5\n")
    assert "--ask-hosts is -5" in run("server", "--config", str(file)).stderr
    env = {"BILLET_SERVER_ASK_HOSTS": "-6"}
    assert "--ask-hosts is -6" in run("server", "--config", str(file), env=env).stderr
    assert "--ask-hosts is -7" in run("server", "--config", str(file), "--ask-hosts", "-7", env=env).stderr
    file.write_text("[server]\ninsecure = true\nlink_insecure = true\n[server.quotas]\n'*' = 'vms:many'\n")
    assert "--quota of * is 'vms:many'" in run("server", "--config", str(file)).stderr
    file.write_text("[server]\nask_hosts = 'many'\n")
    assert run("server", "--config", str(file)).stderr.startswith("billet: Invalid value for '--ask-hosts': 'many'")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nask_host = 3\n", "unknown setting 'ask_host' in [server]"),
        ("[servers]\n", "unknown table or key 'servers'"),
        ("ask_hosts = 3\n", "unknown table or key 'ask_hosts'"),
        ("[server\n", "is not TOML"),
    ],
)
def test_a_config_file_with_a_slip_names_it(tmp_path, text, line):
    file = tmp_path / "billet.toml"
    file.write_text(text)
    result = run("server", "--config", str(file))
    assert result.exit_code == 2
    assert line in result.stderr


def test_a_secret_comes_from_a_file_and_is_not_shown(tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    config = build(AgentConfig, {"servers": ("a:1,b:2", "c:3"), "link_insecure": True, "link_token": "",
                                 "link_token_file": str(file), "labels": (("rack", "7"),)})  # fmt: skip
    assert config.link_token == "s3cret"
    assert "s3cret" not in repr(config)
    assert config.servers == ("a:1", "b:2", "c:3")
    assert config.labels == {"rack": "7"}


def test_a_secret_given_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="are both set"):
        build(ServerConfig, {"link_token": "a", "link_token_file": "b"})


def test_a_server_that_is_not_there_is_one_line_without_a_traceback():
    result = run("hosts", "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("billet: cannot reach 127.0.0.1:1: connection refused")


def test_certs_makes_what_tls_needs_and_overwrites_nothing(tmp_path):
    result = run("certs", str(tmp_path / "pki"), "-o", "json")
    assert result.exit_code == 0
    files = json.loads(result.output)
    assert (tmp_path / "pki" / "server.key").stat().st_mode & 0o777 == 0o600
    assert set(files) == {"ca", "ca_key", "server_cert", "server_key", "client_cert", "client_key"}
    again = run("certs", str(tmp_path / "pki"))
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_a_certificate_for_no_name_is_refused(tmp_path):
    result = run("certs", str(tmp_path / "pki"), "--host", "")
    assert result.exit_code == 2
    assert "--host is ''; give a host name or an IP address" in result.stderr
    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("setting", ["boot_mean_s", "sigma", "time_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fake_takes_no_time_that_is_no_number(setting, value):
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')} {value}: must be a finite number"):
        FakeConfig(**{setting: value}).check()


def test_the_demo_refuses_several_servers_on_sqlite():
    result = run("demo", "--servers", "3", "--store", "sqlite")
    assert result.exit_code == 2
    assert "--store sqlite is for one server" in result.stderr


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("rebalance --least-gain nan", "is not a number"),
        ("rebalance --per-minute nan", "is not a number"),
        ("rebalance --per-minute 1e-300", "is not in the range"),
        ("rebalance --wait-s inf", "is not a number"),
        ("rebalance --wait-s 1e300", "is more than 1000000000"),
        ("host drain h --pace-s nan", "is not a number"),
        ("demo --rate nan", "is not a number"),
        ("demo --boot-mean-s nan", "is not a number"),
        ("demo --pull-mean-s inf", "is not a number"),
        ("create -f x --wait-s nan", "is not a number"),
        ("create -f x --wait-s -1", "is not in the range"),
        ("create -f x --timeout-s nan", "is not a number"),
        ("create -f x --timeout-s 0", "is not in the range"),
        ("delete uid --timeout-s inf", "is not a number"),
        ("delete uid --timeout-s 1e12", "is more than 1000000000"),
    ],
)
def test_what_is_no_number_or_beyond_all_is_refused_before_anything_is_done(args, why):
    done = CliRunner().invoke(main, args.split())
    assert done.exit_code == 2
    option, value = args.split()[-2:]
    shown = float(value) if "range" in why else f"'{value}'"
    assert f"Invalid value for '{option}': {shown} {why}" in done.stderr


SECRETS = ["link_token", "basic_auth_token", "etcd_password", "flintlock_token", "token"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("content", ["", "\n", " \n\n"])
def test_an_empty_file_for_a_secret_is_refused(tmp_path, name, content):
    """Before the fix: it is the same as no token, so a server starts without authentication."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigError, match="which is empty: write the secret into it"):
        secret(f"{name}_file", str(path), "")


def test_a_server_with_an_empty_token_file_does_not_start(tmp_path):
    (tmp_path / "token").touch()
    with pytest.raises(ConfigError, match=r"--basic-auth-token-file is .* which is empty"):
        build(ServerConfig, {"basic_auth_token_file": str(tmp_path / "token"), "basic_auth_token": ""})


def test_an_agent_starts_without_numpy() -> None:
    """It takes a tenth of a second and 20 MB, beside every flintlockd; only the leader looks at a whole fleet."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, billet.node_agent; sys.exit('numpy' in sys.modules)"], check=False
    )
    assert done.returncode == 0
