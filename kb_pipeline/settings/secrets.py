"""Secrets in kb.yaml: ``{env: NAME}`` names an environment variable, and the value never enters the settings.

What belongs here: the type that connectors use for a secret, and which keys look like secrets. What doesn't: logging.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from kb_pipeline.settings.errors import ConfigError, Problem

_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|auth|private|signature|sas|pin|connection_string|\benv\b", re.I)


_SHORTEST = 4  # characters; a shorter secret keeps nothing safe, and taking it out would garble every sentence
_resolved: set[str] = set()


class SecretEnv(BaseModel):
    """A secret that lies in an environment variable. Holds the variable's name only."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the environment variable.")
    _connection: str = PrivateAttr(default="")

    @model_validator(mode="before")
    @classmethod
    def _refuse_literals(cls, value: Any) -> Any:
        if isinstance(value, dict | SecretEnv):
            return value
        # Not a ValueError with the value in it: whatever stands here is probably a real secret.
        raise PydanticCustomError("secret_literal", "expected {env: NAME}: a secret never stands in the file itself")

    @model_validator(mode="after")
    def _remember_connection(self, info: ValidationInfo) -> SecretEnv:
        if isinstance(info.context, dict):
            self._connection = str(info.context.get("connection", ""))
        return self

    def resolve(self) -> str:
        """The value. Raises ConfigError, naming the variable and the connection, when it's unset or empty."""
        value = os.environ.get(self.env, "")
        if not value:
            owner = f' of the connection "{self._connection}"' if self._connection else ""
            raise ConfigError([Problem(f"the environment variable {self.env}{owner} is not set: export it and try again")])
        _resolved.add(value)
        return value


def redact(text: str) -> str:
    """The text without the secrets that this process has resolved, plain or percent-encoded."""
    for value in sorted(_resolved, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            for form in (value, quote(value, safe=""), quote_plus(value)):
                text = text.replace(form, "***")
    return text


def looks_secret(key: str) -> bool:
    """True when a key's name (or path) suggests a secret: its value must not be shown."""
    return _SECRET.search(key) is not None
