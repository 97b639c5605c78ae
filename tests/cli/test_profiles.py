"""Client profiles: named servers and credentials in the user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.demo.processes import free_port

NOWHERE = [f"127.0.0.1:{free_port()}" for _ in range(3)]
PROFILES = f"""
profile = "lab"

[profiles.lab]
server = "{NOWHERE[0]}"

[profiles.prod]
server = "{NOWHERE[1]},{NOWHERE[2]}"
token-file = "prod.token"
tls-ca = "/etc/billet/ca.crt"
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "billet").mkdir()
    file = tmp_path / "billet" / "config.toml"
    file.write_text(PROFILES)
    return file


def error(*arguments: str, **env: str) -> str:
    """What `billet hosts` says of the server that it does not reach, or of its settings."""
    done = CliRunner().invoke(main, ["hosts", *arguments], prog_name="billet", auto_envvar_prefix="BILLET", env=env)
    assert done.exit_code, done.output
    return done.stderr


def test_options_count_before_the_environment_before_the_profile(path: Path) -> None:
    """Broken on purpose (the profile is put before the environment): the second is lost."""
    assert f"cannot reach {NOWHERE[0]}" in error()
    assert f"cannot reach {NOWHERE[1]}" in error(BILLET_SERVER=NOWHERE[1])
    assert f"cannot reach {NOWHERE[2]}" in error("-s", NOWHERE[2], BILLET_SERVER=NOWHERE[1])


def test_a_profile_is_chosen_by_option_or_environment_and_its_files_are_beside_it(path: Path) -> None:
    for said in (error("--profile", "prod"), error(BILLET_PROFILE="prod")):
        assert f"--token-file is '{path.parent / 'prod.token'}', which cannot be read" in said
    (path.parent / "prod.token").write_text("secret")
    assert "cannot read the CA /etc/billet/ca.crt" in error("--profile", "prod")
    assert f"cannot reach {NOWHERE[1]} (nor {NOWHERE[2]})" in error("--profile", "prod", "--tls-ca", "")


@pytest.mark.parametrize(
    ("text", "arguments", "why"),
    [
        (PROFILES, ("--profile", "test"), "has no profile 'test'; it has lab, prod"),
        ("profile = 'x'", (), "has no profile 'x'; it has none"),
        (
            "[profiles.a]\ntls_ca = 'x'",
            ("--profile", "a"),
            "unknown key 'tls_ca' in profile 'a'; it may have server, t",
        ),
        ("[profiles.a]\ntoken = 'x'", ("--profile", "a"), "unknown key 'token' in profile 'a'"),
        ("[profiles.a]\nserver = 1", ("--profile", "a"), "server of profile 'a' is not a text"),
        ("[profile.a]\nserver = 'x'", ("--profile", "a"), "has no profile 'a'; it has none"),
        ("[a]", (), "unknown key 'a'; it may have profile = NAME and [profiles.NAME]"),
        ("[profiles", (), "is not TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_one_line(path: Path, text: str, arguments: tuple[str, ...], why: str) -> None:
    path.write_text(text)
    said = error(*arguments)
    assert why in said
    assert said.count("\n") == 1


def test_without_the_file_nothing_changes_but_a_profile_that_is_asked_for_is_missed(path: Path) -> None:
    path.unlink()
    assert "cannot reach localhost:9090" in error("-s", "localhost:9090")
    assert "there is no profile 'prod': " in error("--profile", "prod")
