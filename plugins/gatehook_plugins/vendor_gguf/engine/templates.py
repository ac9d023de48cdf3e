"""Renders conversations as the text that the model was trained on, by its own Jinja template, in a sandbox."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.errors import Invalid

__all__ = ["ChatTemplate", "Refused", "TemplateFault"]

PLAIN: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, for files that have no template."""


_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags around what a model is trained on; they mean nothing for the text that is rendered."""


class TemplateFault(Exception):
    """The template is no valid Jinja; the message says where."""


class Refused(Invalid):
    """A template does not take such a conversation."""


class _Raised(Exception):
    """A template's own complaint about a conversation."""


class ChatTemplate:
    """A template, with the filters and functions that templates expect."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """`bos` and `eos` are the texts of the tokens that begin and end a text.

        Raises:
            TemplateFault: it is no valid Jinja.
        """
        import jinja2
        import jinja2.meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._errors: type[Exception] = jinja2.TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=_now, bos_token=bos, eos_token=eos)
        try:
            source = _GENERATION.sub("", source)
            self._template = environment.from_string(source)
            names = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            where = f"line {line}: " if line else ""
            raise TemplateFault(f"the chat template is no valid jinja: {where}{error}") from None
        self.source = source
        self.knows_tools = "tools" in names
        """Whether the template can offer tools."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], names: Mapping[str, Any]
    ) -> str:
        """The text that the model goes on from.

        Args:
            messages: OpenAI's, with text contents, and arguments of calls as objects.
            tools: OpenAI's.
            names: more that the template may use.

        Raises:
            Refused: the template refuses the messages. Invalid: it fails at them.
        """
        try:
            return self._template.render(
                {**names, "messages": messages, "tools": tools or None, "add_generation_prompt": True}
            )
        except _Raised as error:
            raise Refused(f"messages: the model's chat template refuses them: {error}", param="messages") from None
        except (self._errors, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
            reason = f"{type(e).__name__}: {e}"
            raise Invalid(f"messages: the model's chat template fails at them: {reason}", param="messages") from None


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As in transformers: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  # templates tell the model the local date


def _raise(message: str) -> None:
    raise _Raised(message)
