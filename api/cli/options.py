"""Options that several commands share: a server's address, the key for it, a duration."""

import re
from collections.abc import Callable

import click

from api.settings.env import Settings, SettingsError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _key_of_settings() -> str:
    """The key in AUTH_API_KEY_FILE, as the containers have it.

    Who asks a server elsewhere needs no settings: if any of them is wrong, there is no key.
    """
    try:
        return Settings.from_env().auth.api_key
    except SettingsError:
        return ""


key_option = click.option(
    "--key",
    envvar=["RAGRELAY_API_KEY", "AUTH_API_KEY"],
    default=_key_of_settings,
    show_envvar=True,
    help="API key of that server",
)


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--url` and `--key` to a command that needs a running server."""
    add_url = click.option(
        "--url",
        default="http://127.0.0.1:8000",
        show_default=True,
        envvar="RAGRELAY_URL",
        show_envvar=True,
        help="Address of the server",
    )
    return add_url(key_option(command))


def other_server_options(use: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--url` and `--key` to a command that works without a server; `use` says what for."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        return click.option("--url", help=use)(key_option(command))

    return add


def parse_duration(text: str) -> float:
    """Return the seconds of 30d, 12h, 15m or 90s. Raises BadParameter."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!a} is not a duration: write 30d, 12h, 15m or 90s")
    return float(int(found[1]) * UNITS[found[2]])
