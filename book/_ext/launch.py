"""Buttons that lead to the repository exist exactly when its address is known.

The address is taken, in this order, from

1. ``DNLBOOK_REPOSITORY``, a full URL;
2. ``GITHUB_SERVER_URL`` and ``GITHUB_REPOSITORY``, which GitHub's runners set;
3. ``git remote get-url origin``.

Addresses for ssh are turned into https.  A path on this machine or an unknown kind of host is not an
address of a repository for readers: then there is no Binder, no Thebe, no repository and no issue
button, and no page names one. The branch is ``DNLBOOK_BRANCH`` or the one of ``_config.yml``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
PROVIDERS = ("github", "gitlab", "bitbucket")  # the theme can link to files and issues of these
REMOTE = re.compile(
    r"^(?:(?P<scheme>https?|ssh|git)://)?(?:[^@/\s]+@)?(?P<host>[\w-]+(?:\.[\w-]+)+)"
    r"(?::\d+(?=/))?(?P<separator>[:/])/?(?P<path>[\w.~-]+(?:/[\w.~-]+)+)/?$"
)


def normalise(remote: str) -> str | None:
    """``https://host/owner/name`` for any usual spelling of a remote, None for anything else.

    >>> normalise("git@github.com:owner/name.git")
    'https://github.com/owner/name'
    >>> normalise("/home/me/name") is None
    True
    """
    match = REMOTE.match(remote.strip())
    if match is None or (match["scheme"] is None and match["separator"] == "/"):
        return None
    if not any(provider in match["host"].lower() for provider in PROVIDERS):
        return None
    return f"https://{match['host'].lower()}/{match['path'].removesuffix('.git')}"


def origin(folder: Path) -> str:
    """The address of the git remote ``origin`` of a folder, empty if there is none."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "remote", "get-url", "origin"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except OSError:  # no git on this machine
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def repository(environment: Mapping[str, str], folder: Path) -> str | None:
    """The https address of the repository, None if it is not known."""
    if given := environment.get("DNLBOOK_REPOSITORY", "").strip():
        if (url := normalise(given)) is None:
            raise ConfigError(
                f"DNLBOOK_REPOSITORY: expected an address on {', '.join(PROVIDERS)}, received {given!r}"
            )
        return url
    if name := environment.get("GITHUB_REPOSITORY", "").strip():
        return normalise(f"{environment.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}")
    return normalise(origin(folder))


def configure(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    url = repository(os.environ, Path(app.confdir))
    known = url is not None
    options["use_repository_button"] = options["use_issues_button"] = known
    if known:
        options["repository_url"] = url
        branch = os.environ.get("DNLBOOK_BRANCH") or options.get("repository_branch")
        options["repository_branch"] = branch or "main"
        if "github.com/" not in str(url):  # sphinx-thebe starts kernels from GitHub only
            options["launch_buttons"]["thebe"] = False
    else:
        options["launch_buttons"] = {}
        options.pop("repository_url", None)
    LOGGER.info("launch: %s", url or "the address of the repository is not known, so no launch buttons")
    if not options["launch_buttons"].get("thebe"):
        without_thebe(app)


def without_thebe(app: Sphinx) -> None:
    """Without an address sphinx-thebe names somebody else's repository on every page: it stays silent."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def setup(app: Sphinx) -> dict[str, object]:
    app.connect("config-inited", configure)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
